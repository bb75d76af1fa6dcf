package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/weir-iot/weir/test/weirtest"
)

// TestShadowGuide follows docs/shadows.md.
func TestShadowGuide(t *testing.T) {
	const guide = "../../docs/shadows.md"
	quoteFiles(t, guide)
	w := weirtest.Start(t)
	times := regexp.MustCompile(`"timestamp": ?\d+|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+`)
	mask := func(lines []string) []string {
		return strings.Split(times.ReplaceAllString(strings.Join(lines, "\n"), "*"), "\n")
	}
	runScriptWith(t, guide, "../../examples/shadows", &scriptOptions{
		environ: append(os.Environ(), "WEIR_DATA_DIR="+w.Dir()),
		same:    func(got, want []string) bool { return sameGuide(mask(got), mask(want)) },
		blanks:  true,
		later:   regexp.MustCompile(`^\$ weir (tail|shadow log|shadow list)`),
	})
}
