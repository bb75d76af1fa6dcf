package suggest

import "testing"

func TestNearest(t *testing.T) {
	words := []string{"SELECT", "FROM", "WHERE", "topic", "timestamp", "größe", "is"}
	for _, c := range []struct{ word, want string }{
		{"SELEC", "SELECT"},
		{"FORM", "FROM"},
		{"wehre", "WHERE"},
		{"topik", "topic"},
		{"timstmp", "timestamp"},
		{"grösse", "größe"},
		{"select", "SELECT"},
		{"si", "is"},
		{"i", ""},
		{"tpc", ""},
		{"banana", ""},
		{"", ""},
	} {
		got, ok := Nearest(c.word, words)
		if got != c.want || ok != (c.want != "") {
			t.Errorf("Nearest(%q) = %q, %v; want %q", c.word, got, ok, c.want)
		}
	}
}

func TestNearestTakesTheFirstOfEquals(t *testing.T) {
	if got, _ := Nearest("bad", []string{"bed", "bat"}); got != "bed" {
		t.Errorf("got %q", got)
	}
}
