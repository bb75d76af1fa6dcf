package registry

import (
	"encoding/base64"
	"hash/fnv"
	"strconv"
	"strings"
)

// Page asks for a part of a list.
type Page struct {
	Max   int    // 1 to 250; 0: 25 for names, as AWS's
	Token string // of the page before; "": from the beginning
}

const (
	pageMax     = 250
	pageDefault = 25
	scanMax     = 20_000 // records a filtering page looks at
)

// A token names the last key of its page, so it stays right whatever is created
// or deleted meanwhile. It holds for the list with the same filters alone.
func (p Page) open(list string) (max int, last string, err error) {
	max = p.Max
	if max == 0 {
		max = pageDefault
	}
	if max < 1 || max > pageMax {
		return 0, "", invalid("a page has 1 to %d results, not %d", pageMax, p.Max)
	}
	if p.Token == "" {
		return max, "", nil
	}
	b, err := base64.StdEncoding.DecodeString(p.Token)
	if err != nil || len(p.Token) > 1024 {
		return 0, "", invalid("the page token is not one of this list")
	}
	mark, last, ok := strings.Cut(string(b), "\n")
	if !ok || last == "" || mark != markOf(list) {
		return 0, "", invalid("the page token is not one of this list")
	}
	return max, last, nil
}

func markOf(list string) string {
	h := fnv.New64a()
	h.Write([]byte(list))
	return "1" + strconv.FormatUint(h.Sum64(), 36)
}

func tokenOf(list, last string) string {
	return base64.StdEncoding.EncodeToString([]byte(markOf(list) + "\n" + last))
}

// pageOf reads one page of o. keep picks the results; nil: all.
func pageOf[V, T any](o *ordered[V], p Page, list string, descending bool, keep func(key string, v V) (T, bool)) ([]T, string, error) {
	if descending {
		list += "\x00desc"
	}
	max, last, err := p.open(list)
	if err != nil {
		return nil, "", err
	}
	out := make([]T, 0, min(max, o.len()))
	next, seen, full := "", 0, false
	walk := o.after
	if descending {
		walk = o.before
	}
	walk(last, func(key string, v V) bool {
		if full || seen == scanMax {
			next = tokenOf(list, last)
			return false
		}
		seen++
		last = key
		if t, ok := keep(key, v); ok {
			out = append(out, t)
			full = len(out) == max
		}
		return true
	})
	return out, next, nil
}

// pageOfNames reads one page of sorted names.
func pageOfNames[T any](names []string, p Page, list string, as func(string) T) ([]T, string, error) {
	var o ordered[struct{}]
	for _, n := range names {
		o.set(n, struct{}{})
	}
	return pageOf(&o, p, list, false, func(k string, _ struct{}) (T, bool) { return as(k), true })
}
