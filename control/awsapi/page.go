package awsapi

import (
	"cmp"
	"encoding/base64"
	"slices"
	"strings"
)

// A page token is the key of the last item, with the name of the list, in
// base64. It stays good when items come and go: the next page begins behind
// where that item is or was.

func token(list, last string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(list + "\x00" + last))
}

func readToken(list, token string) (last string, err error) {
	if token == "" {
		return "", nil
	}
	b, err := base64.RawURLEncoding.DecodeString(token)
	got, last, ok := strings.Cut(string(b), "\x00")
	if err != nil || !ok || got != list {
		return "", invalid("nextToken is not one of this list")
	}
	return last, nil
}

// page returns the part of items that token asks for, at most most, and the
// token of what follows. items are sorted by key, which differs for each;
// descending says that they stand in the other order.
func page[T any](list string, items []T, key func(*T) string, tok string, most *int64, def int, descending bool) ([]T, string, error) {
	last, err := readToken(list, tok)
	if err != nil {
		return nil, "", err
	}
	if tok != "" {
		i, found := slices.BinarySearchFunc(items, last, func(item T, last string) int {
			if descending {
				return cmp.Compare(last, key(&item))
			}
			return cmp.Compare(key(&item), last)
		})
		if found {
			i++
		}
		items = items[i:]
	}
	n := def
	if most != nil && *most > 0 {
		n = int(*most)
	}
	if n >= len(items) {
		return items, "", nil
	}
	return items[:n], token(list, key(&items[n-1])), nil
}

func sortBy[T any](items []T, key func(*T) string) {
	slices.SortFunc(items, func(a, b T) int { return cmp.Compare(key(&a), key(&b)) })
}
