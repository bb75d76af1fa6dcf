package e2e

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/weir-iot/weir/test/weirtest"
)

// The commands of docs/identity.md do what they should, as a shell runs them.
func TestIdentityGuide(t *testing.T) {
	if testing.Short() {
		t.Skip("other people's programs")
	}
	tool(t, "curl", "curl")
	src, err := os.ReadFile("../../docs/identity.md")
	if err != nil {
		t.Fatal(err)
	}
	w := weirtest.Start(t)
	commands := regexp.MustCompile(`(?m)^\$ (.*)$`).FindAllStringSubmatch(string(src), -1)
	if len(commands) == 0 {
		t.Fatal("no commands")
	}
	for _, c := range commands {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", `eval "$("$WEIR" --data "$DATA" env)" && `+c[1])
		cmd.Env = append(os.Environ(), "WEIR="+weirtest.Binary(t), "DATA="+w.Dir())
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), `"message":"OK"`) {
			t.Errorf("%s: %v %s", c[1], err, out)
		}
	}
}
