package sql

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// vector is what a conformance vector says about reading; what a statement does
// is tested in rules/eval.
type vector struct {
	ID, Group, SQL, Template string
	ExpectParseError         bool
}

// vectors returns the conformance vectors, those that must be rejected apart.
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
		if err != nil {
			checkError(t, v.SQL, err)
		} else if v.Group == "errors/syntax" { // what is wrong with others may be what they mean
			t.Errorf("%s was accepted: %s", v.ID, v.SQL)
		}
	}
}
