package shadowcheck

import (
	"testing"

	"github.com/anishathalye/porcupine"
)

// The model tells a good history from one with a lost update, a version that does
// not fit, or a read of the past.
func TestSectionsModel(t *testing.T) {
	write := func(name string, expected uint64, at int64, o Outcome, view Sections) porcupine.Operation {
		return porcupine.Operation{ClientId: int(at), Input: change{write: name, expected: expected}, Call: at, Output: seen{o, view}, Return: at + 1}
	}
	whole := func(n uint64) Sections {
		return Sections{Version: n, Reported: Part{Write: Unseen}, Desired: Part{Write: Unseen}}
	}
	read := func(at int64, view Sections) porcupine.Operation {
		return porcupine.Operation{ClientId: int(at), Input: change{}, Call: at, Output: seen{Accepted, view}, Return: at + 1}
	}
	for name, h := range map[string]struct {
		ops  []porcupine.Operation
		good bool
	}{
		"in order":      {[]porcupine.Operation{write("a", 1, 0, Accepted, whole(2)), write("b", 2, 2, Accepted, whole(3)), read(4, Sections{Desired: Part{3, "b"}})}, true},
		"conflict":      {[]porcupine.Operation{write("a", 1, 0, Accepted, whole(2)), write("b", 1, 2, Conflict, Sections{})}, true},
		"two of one":    {[]porcupine.Operation{write("a", 1, 0, Accepted, whole(2)), write("b", 1, 2, Accepted, whole(3))}, false},
		"lost":          {[]porcupine.Operation{write("a", 0, 0, Accepted, whole(2)), write("b", 0, 2, Accepted, whole(2))}, false},
		"old read":      {[]porcupine.Operation{write("a", 0, 0, Accepted, whole(2)), write("b", 0, 2, Accepted, whole(3)), read(4, Sections{Desired: Part{2, "a"}, Reported: Part{0, Unseen}})}, false},
		"odd conflict":  {[]porcupine.Operation{write("a", 1, 0, Conflict, Sections{})}, false},
		"wrong section": {[]porcupine.Operation{write("a", 0, 0, Accepted, whole(2)), read(4, Sections{Reported: Part{2, "a"}, Desired: Part{0, Unseen}})}, false},
	} {
		if got := porcupine.CheckOperations(sections, h.ops); got != h.good {
			t.Errorf("%s: %v", name, got)
		}
	}
}
