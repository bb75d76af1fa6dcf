package sql

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// vector is what a conformance vector says about reading; what a statement does
// is tested in rules/eval.
type vector struct {
	ID, SQL, Template string
	ExpectParseError  bool
}

// vectors returns the conformance vectors, those of errors.jsonl apart.
func vectors(t testing.TB) (good, bad []vector) {
	t.Helper()
	files, _ := filepath.Glob("../testdata/conformance/sql/*.jsonl")
	if len(files) == 0 {
		t.Fatal("no conformance vectors")
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			var v vector
			if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if v.ExpectParseError {
				bad = append(bad, v)
			} else {
				good = append(good, v)
			}
		}
		if err := lines.Err(); err != nil {
			t.Fatal(err)
		}
	}
	return good, bad
}

// compiled names the vectors that must be rejected for what they mean, not for
// how they read: rules/eval does that.
func compiled(v vector) bool {
	for _, prefix := range []string{"errflt-", "errver-"} {
		if strings.HasPrefix(v.ID, prefix) {
			return true
		}
	}
	for _, part := range []string{"Banana", "no_such_function", "@x = @x", "@never"} {
		if strings.Contains(v.SQL, part) {
			return true
		}
	}
	return false
}

func TestVectorsAreRead(t *testing.T) {
	good, bad := vectors(t)
	for _, v := range good {
		if v.SQL != "" {
			if _, err := Parse(v.SQL); err != nil {
				t.Errorf("%s: %s\n%s", v.ID, v.SQL, err.(*Error).Detail())
			}
		}
	}
	for _, v := range good {
		if v.Template != "" {
			if _, err := ParseTemplate(v.Template); err != nil {
				t.Errorf("%s: %s\n%s", v.ID, v.Template, err.(*Error).Detail())
			}
		}
	}
	for _, v := range bad {
		_, err := Parse(v.SQL)
		if err == nil && !compiled(v) {
			t.Errorf("%s was accepted: %s", v.ID, v.SQL)
		}
	}
}
