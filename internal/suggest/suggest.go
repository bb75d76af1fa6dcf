// Package suggest finds the name somebody meant.
package suggest

// Nearest returns the name of names nearest to word, or "" where none is near.
func Nearest(word string, names []string) string {
	best, at := "", len(word)/3+2
	for _, n := range names {
		if d := distance(word, n); d < at {
			best, at = n, d
		}
	}
	return best
}

func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		prev := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cur := row[j]
			c := prev
			if a[i-1] != b[j-1] {
				c = min(prev, row[j], row[j-1]) + 1
			}
			row[j] = c
			prev = cur
		}
	}
	return row[len(b)]
}
