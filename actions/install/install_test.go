package install

import (
	"os"
	"strings"
	"testing"

	"github.com/weir-iot/weir/actions"
)

func TestReferenceIsUpToDate(t *testing.T) {
	b, err := os.ReadFile("../../docs/actions.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(b) != Reference() {
		t.Error("docs/actions.md is not what the tables say: run go generate ./actions/install")
	}
}

func TestKinds(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range Kinds() {
		if seen[k.Name] || k.Name == "" || k.New == nil || !strings.HasSuffix(k.Summary, ".") {
			t.Errorf("%+v", k)
		}
		seen[k.Name] = true
		if got, ok := Find(k.Name); !ok || got.Name != k.Name {
			t.Errorf("Find(%q) is %q", k.Name, got.Name)
		}
		check(t, k.Name, k.Fields)
	}
	if _, ok := Find("sqs"); ok {
		t.Error("found what is not there")
	}
}

func check(t *testing.T, at string, fields []actions.Field) {
	for _, f := range fields {
		if f.Name == "" || f.Type == "" || f.Help == "" || f.Required && f.Default != "" {
			t.Errorf("%s.%s: %+v", at, f.Name, f)
		}
		check(t, at+"."+f.Name, f.Fields)
	}
}
