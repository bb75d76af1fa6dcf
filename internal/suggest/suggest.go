// Package suggest finds the word a user most likely meant. Parsers of
// statements, documents and configurations ask it when they meet a word they do
// not know, and put its answer into the hint of their error.
package suggest

import (
	"strings"
	"unicode/utf8"
)

// longest is the length in bytes past which a word is not compared: nobody
// misspells such a word by two letters, and the comparison costs its square.
const longest = 64

// Nearest returns the candidate that lies nearest to word, in letters inserted,
// dropped, changed or swapped with their neighbour; upper and lower case are the
// same. ok is false where none is near enough to be meant: one step for words of
// up to four letters, two for longer ones. Of equally near candidates the
// first one counts.
func Nearest(word string, candidates []string) (nearest string, ok bool) {
	if word == "" || len(word) > longest {
		return "", false
	}
	w := []rune(strings.ToLower(word))
	best := 3
	if len(w) <= 4 {
		best = 2
	}
	if len(w) == 1 {
		best = 1 // any one letter is one step from any other
	}
	for _, c := range candidates {
		if len(c) > longest || abs(utf8.RuneCountInString(c)-len(w)) >= best {
			continue
		}
		if d := distance(w, []rune(strings.ToLower(c))); d < best {
			nearest, best, ok = c, d, true
		}
	}
	return nearest, ok
}

// distance is the optimal string alignment distance of a and b.
func distance(a, b []rune) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i, x := range a {
		row[0] = i + 1
		for j, y := range b {
			cost := 1
			if x == y {
				cost = 0
			}
			d := min(last[j+1]+1, row[j]+1, last[j]+cost)
			if i > 0 && j > 0 && x == b[j-1] && a[i-1] == y {
				d = min(d, before[j-1]+1)
			}
			row[j+1] = d
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

func abs(n int) int {
	if n < 0 {
		return -n
	}
	return n
}
