package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/test/weirtest"
)

// TestGuide follows docs/rules.md: it runs its commands, against a server where
// they need one, and compares what they print.
func TestGuide(t *testing.T) {
	const guide = "../../docs/rules.md"
	quoteFiles(t, guide)
	w := weirtest.Start(t)
	runScriptWith(t, guide, "../../examples/rules", &scriptOptions{
		environ: append(os.Environ(), "WEIR_DATA_DIR="+w.Dir()),
		same:    sameGuide,
		blanks:  true,
		later:   regexp.MustCompile(`^\$ weir (rule status|dead)`),
	})
}

// quoteFiles compares the files a document shows with those there are. A block
// of code that shows one follows a comment with its path from the document.
func quoteFiles(t *testing.T, doc string) {
	t.Helper()
	src, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?ms)^<!-- file: (\\S+) -->\n```yaml\n(.*?)^```$")
	found := 0
	out := block.ReplaceAllStringFunc(string(src), func(s string) string {
		found++
		m := block.FindStringSubmatch(s)
		want, err := os.ReadFile(filepath.Join(filepath.Dir(doc), m[1]))
		if err != nil {
			t.Fatal(err)
		}
		if m[2] != string(want) && !*update {
			t.Errorf("%s does not show %s as it is; run with -update", doc, m[1])
		}
		return "<!-- file: " + m[1] + " -->\n```yaml\n" + string(want) + "```"
	})
	if found == 0 {
		t.Fatalf("%s shows no file", doc)
	}
	if *update && out != string(src) {
		if err := os.WriteFile(doc, []byte(out), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// differs is what is another in each run against a server: message ids, times,
// the names of clients.
var differs = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}"|([0-9]{4}-)?[0-9]{2}-[0-9]{2} [0-9:]{8}|[0-9]+[smh] ago|weir-[a-z0-9]{8}`)

func sameGuide(got, want []string) bool {
	mask := func(lines []string) string { return differs.ReplaceAllString(sameTime(strings.Join(lines, "\n")), "*") }
	return mask(got) == mask(want)
}

// patience is how long a command is repeated until it prints what it should.
const patience = 20 * time.Second
