package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/test/weirtest"
)

// ofARun is what another run prints differently: times and ids.
var ofARun = regexp.MustCompile(`\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\dZ?|[0-9a-f]{64}|[0-9a-f]{11}…`)

// The commands of docs/provisioning.md, and what they print.
func TestProvisioningGuide(t *testing.T) {
	if testing.Short() {
		t.Skip("other people's programs")
	}
	tool(t, "aws", "awscli")
	const guide = "../../docs/provisioning.md"
	b, err := os.ReadFile(guide)
	if err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	blocks := regexp.MustCompile("(?s)<!-- run by TestProvisioningGuide -->\n```sh\n(.*?)```").FindAllStringSubmatch(string(b), -1)
	if len(blocks) != 2 {
		t.Fatalf("%d blocks of commands", len(blocks))
	}
	for _, m := range blocks {
		script.WriteString("echo ---\n" + m[1])
	}
	printed := regexp.MustCompile("(?s)<!-- printed -->\n```text\n(.*?)```").FindStringSubmatch(string(b))

	dir, bin := t.TempDir(), t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../../examples/provisioning")); err != nil {
		t.Fatal(err)
	}
	// The Python that Debian's paho is for.
	for name, path := range map[string]string{"weir": weirtest.Binary(t), "python3": "/usr/bin/python3"} {
		if err := os.Symlink(path, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	w := weirtest.Start(t)
	state := w.Subscribe("lamps/#")
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-e", "-c", "shopt -s expand_aliases\n"+script.String())
	cmd.Dir = dir
	cmd.Env = append(cmd.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "WEIR_DATA_DIR="+w.Dir(), "AWS_PAGER=", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, got, _ := strings.Cut(strings.TrimPrefix(string(out), "---\n"), "---\n")
	if mask := func(s string) string { return ofARun.ReplaceAllString(s, "*") }; printed == nil || mask(got) != mask(printed[1]) {
		t.Errorf("%s shows something else than this:\n%s", guide, got)
	}
	if m := state.Next(); m.Topic != "lamps/lamp-7/state" {
		t.Errorf("%+v", m)
	}
	if info, err := os.Stat(filepath.Join(dir, "device.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info, err)
	}
}
