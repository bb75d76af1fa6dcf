package npm

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestPackagesAreThere(t *testing.T) {
	dir := Dir(t)
	for _, p := range []string{"s3rver", "dynalite"} {
		if _, err := os.Stat(filepath.Join(dir, p, "package.json")); err != nil {
			t.Error(err)
		}
	}
}

func TestNodeRunsUntilTheTestEnds(t *testing.T) {
	got := Node(t, `console.log("port " + process.argv[1]); setInterval(() => {}, 1000)`, regexp.MustCompile(`^port (\d+)$`), "42")
	if got != "42" {
		t.Errorf("got %q", got)
	}
}

// A lock file from a machine with another registry would send everyone there.
func TestLockNamesNoRegistry(t *testing.T) {
	if strings.Contains(string(packageLock), `"resolved"`) {
		t.Error("package-lock.json has \"resolved\" addresses: remove them (npm install --omit-lockfile-registry-resolved)")
	}
}
