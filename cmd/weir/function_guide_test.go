package main

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/weir-iot/weir/functions/sandbox"
	"github.com/weir-iot/weir/test/weirtest"
)

func TestMain(m *testing.M) {
	sandbox.Main()
	os.Exit(m.Run())
}

var reported = regexp.MustCompile(` Duration: .*`)

// TestFunctionGuide follows docs/functions.md.
func TestFunctionGuide(t *testing.T) {
	for _, program := range []string{"/usr/bin/python3"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed", program)
		}
	}
	w := weirtest.Start(t)
	runScriptWith(t, "../../docs/functions.md", "../../examples/functions", &scriptOptions{
		environ: append(os.Environ(), "WEIR_DATA_DIR="+w.Dir()),
		same: func(got, want []string) bool {
			// What this host cannot isolate is another thing on each, and so are times.
			told := slices.DeleteFunc(slices.Clone(got), func(line string) bool { return strings.HasPrefix(line, "weir: warning: not isolated: ") })
			return sameGuide(reported.Split(strings.Join(told, "\n"), -1), reported.Split(strings.Join(want, "\n"), -1))
		},
	})
}
