package sql

import (
	"os"
	"strings"
	"testing"
)

// TestDocs reads the statements that the language's page shows, and compares
// the errors.
func TestDocs(t *testing.T) {
	page, err := os.ReadFile("../../docs/sql.md")
	if err != nil {
		t.Fatal(err)
	}
	var good, bad int
	fences := strings.Split(string(page), "```")
	for i := 1; i < len(fences); i += 2 {
		kind, text, _ := strings.Cut(fences[i], "\n")
		text = strings.TrimSuffix(text, "\n")
		switch kind {
		case "sql":
			for _, src := range strings.Split(text, "\n\n") {
				good++
				if _, err := Parse(src); err != nil {
					t.Error(err.(*Error).Detail())
				}
			}
		case "text":
			bad++
			src := strings.TrimSpace(strings.Split(text, "\n")[1])
			if _, err := Parse(src); err == nil {
				t.Errorf("accepted: %s", src)
			} else if got := err.(*Error).Detail(); got != text {
				t.Errorf("got\n%s\nwant\n%s", got, text)
			}
		default:
			t.Errorf("a fence of kind %q", kind)
		}
	}
	if good == 0 || bad == 0 {
		t.Errorf("%d statements and %d errors", good, bad)
	}
}
