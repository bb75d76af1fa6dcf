package e2e

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/test/weirtest"
)

// The commands of docs/registry.md run as they stand there.
func TestRegistryGuide(t *testing.T) {
	if _, err := exec.LookPath("mosquitto_pub"); err != nil {
		t.Skip("mosquitto-clients is not installed")
	}
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed")
	}
	guide, err := os.ReadFile("../../docs/registry.md")
	if err != nil {
		t.Fatal(err)
	}
	w := weirtest.Start(t, weirtest.Durability("os"))
	hello := w.Subscribe("pump-7/#", "pump-9/#")
	dir, bin := t.TempDir(), t.TempDir()
	if err := os.Symlink(weirtest.Binary(t), filepath.Join(bin, "weir")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	n := 0
	for _, part := range strings.Split(string(guide), "```console\n")[1:] {
		script, _, _ := strings.Cut(part, "```")
		cmd := exec.CommandContext(ctx, "sh", "-eux", "-c", script)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "WEIR_DATA_DIR="+w.Dir(), "PATH="+bin+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if strings.Contains(string(out), "PRIVATE") {
			t.Errorf("a key is printed:\n%s", out)
		}
		n++
	}
	if n != 5 {
		t.Errorf("%d blocks of commands", n)
	}
	if m := hello.Next(); string(m.Topic) != "pump-7/hello" {
		t.Errorf("%+v", m)
	}
	if m := hello.Next(); string(m.Topic) != "pump-9/hello" || string(m.Payload) != "second" {
		t.Errorf("%+v", m)
	}
	info, err := os.Stat(filepath.Join(dir, "pump-7", "private.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info, err)
	}
}

// What fails leaves nothing behind, here and there, and says why.
func TestRegistryCommandsThatFail(t *testing.T) {
	w := weirtest.Start(t, weirtest.Durability("memory"))
	dir := t.TempDir()
	env := []string{"WEIR_DATA_DIR=" + w.Dir()}
	for _, c := range []struct{ args, says string }{
		{"cert create --thing t --policy none -o " + dir + "/t", "there is no policy none"},
		{"cert create --thing a/b -o " + dir + "/t", "must match"},
		{"thing show none", "there is no thing none"},
		{"thing delete none", "there is no thing none"},
		{"group add none none", "there is no thing none"},
		{"policy delete none", "there is no policy none"},
		{"cert revoke 12", "a certificate id has 64 characters"},
		{"access-key delete AKIA0000000000000000", "there is no access key"},
		{"thing list --after x", "page token"},
	} {
		out, stderr, code := weirtest.Run(t, "", env, strings.Fields(c.args)...)
		if code != 4 || !strings.Contains(stderr, c.says) || out != "" {
			t.Errorf("weir %s: exit %d\n%s%s", c.args, code, out, stderr)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Error("left behind:", left, err)
	}
	var things control.List[control.Thing]
	if err := w.API().Registry(t.Context(), "thing.list", control.ListRequest{}, &things); err != nil || len(things.Items) > 0 {
		t.Error(things, err)
	}
	for _, args := range []string{"thing create", "thing create a --attribute x", "policy attach p", "cert create", "cert create --thing t --key dsa", "access-key create"} {
		if _, stderr, code := weirtest.Run(t, "", env, strings.Fields(args)...); code != 2 || stderr == "" {
			t.Errorf("weir %s: exit %d\n%s", args, code, stderr)
		}
	}
	var answer json.RawMessage
	for op, in := range map[string]any{"thing.fly": struct{}{}, "thing.create": map[string]int{"wings": 2}, "": 1} {
		err := w.API().Registry(t.Context(), op, in, &answer)
		if err == nil || errs.Is(err, errs.Unavailable) {
			t.Errorf("%q: %v", op, err)
		}
	}
}

// Access keys manage nobody, whatever their policy allows: access keys are made
// with the owner's token alone.
func TestKeysManageNobody(t *testing.T) {
	w := weirtest.Start(t, weirtest.Durability("memory"))
	var keys control.List[control.AccessKey]
	list := func() int {
		if err := w.API().Registry(t.Context(), "access-key.list", control.ListRequest{}, &keys); err != nil {
			t.Fatal(err)
		}
		return len(keys.Items)
	}
	before := list()
	k := accessKey(t, w) // the owner's, which may do all
	body := []byte(`{"policies": ["{\"Version\": \"2012-10-17\", \"Statement\": [{\"Effect\": \"Allow\", \"Action\": \"*\", \"Resource\": \"*\"}]}"]}`)
	for _, service := range []string{"iot", "iotdata", "lambda", "iam", "weir"} {
		for _, op := range []string{"access-key.create", "access-key.list", "access-key.delete"} {
			if code, text := raw(t, w, k, service, "POST", "/weir/v1/registry/"+op, body); code < 400 || code >= 500 {
				t.Errorf("%s signed for %s: %d %s", op, service, code, text)
			}
		}
	}
	if after := list(); after != before {
		t.Errorf("%d access keys, there were %d", after, before)
	}
}
