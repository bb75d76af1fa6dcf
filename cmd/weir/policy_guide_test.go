package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/weir-iot/weir/test/weirtest"
)

// TestPoliciesGuide follows docs/policies.md: it runs its commands and compares
// what they print.
func TestPoliciesGuide(t *testing.T) {
	src, err := os.ReadFile("../../docs/policies.md")
	if err != nil {
		t.Fatal(err)
	}
	document, err := os.ReadFile("testdata/policies/pumps.json")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(src), "```json\n"+string(document)+"```") {
		t.Error("docs/policies.md does not show pumps.json as it is")
	}
	w := weirtest.Start(t)
	work := t.TempDir()
	if err := os.CopyFS(work, os.DirFS("testdata/policies")); err != nil {
		t.Fatal(err)
	}
	guide, err := filepath.Abs("../../docs/policies.md")
	if err != nil {
		t.Fatal(err)
	}
	fingerprint := regexp.MustCompile(`[0-9a-f]{64}`)
	runScriptWith(t, guide, work, &scriptOptions{
		environ: append(os.Environ(), "WEIR_DATA_DIR="+w.Dir()), blanks: true,
		same: func(got, want []string) bool {
			mask := func(lines []string) string {
				return fingerprint.ReplaceAllString(strings.Join(lines, "\n"), "FINGERPRINT")
			}
			return mask(got) == mask(want)
		},
	})
}
