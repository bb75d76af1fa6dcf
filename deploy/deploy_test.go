package deploy

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/weir-iot/weir/internal/config"
)

func TestTheExampleIsValid(t *testing.T) {
	if _, err := config.Load("weir.yaml", false, nil); err != nil {
		t.Error(config.Detail(err))
	}
}

// The variables the image sets are settings, and its values are valid.
func TestTheImagesEnvironmentIsValid(t *testing.T) {
	b, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	var environ []string
	for _, m := range regexp.MustCompile(`(?m)\b(WEIR_[A-Z_]+=\S+)`).FindAllStringSubmatch(string(b), -1) {
		environ = append(environ, strings.TrimSuffix(m[1], `\`))
	}
	if len(environ) < 4 {
		t.Fatalf("%q", environ)
	}
	if unknown := config.UnknownEnv(environ); len(unknown) > 0 {
		t.Error(unknown)
	}
	c, err := config.Load("", false, environ)
	if err != nil {
		t.Fatal(config.Detail(err))
	}
	if c.Listen.MQTTS != "0.0.0.0:8883" || c.DataDir != "/var/lib/weir" {
		t.Errorf("%+v", c)
	}
}

// The composition has each role once, sets what there is to set, and gives the
// sealing key to those alone that need it.
func TestTheCompositionIsValid(t *testing.T) {
	b, err := os.ReadFile("compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Services map[string]struct {
			Command     []string
			Environment map[string]string
			Volumes     []string
		}
	}
	if err := yaml.Unmarshal(b, &c); err != nil {
		t.Fatal(err)
	}
	var roles []string
	for name, s := range c.Services {
		if name == "nats" {
			continue
		}
		if len(s.Command) != 3 || s.Command[0] != "serve" || s.Command[1] != "--role" || s.Command[2] != name {
			t.Errorf("%s: %q", name, s.Command)
			continue
		}
		roles = append(roles, name)
		environ := []string{"WEIR_ROLES=" + name}
		for k, v := range s.Environment {
			environ = append(environ, k+"="+v)
		}
		if unknown := config.UnknownEnv(environ); len(unknown) > 0 {
			t.Error(name, unknown)
		}
		if _, err := config.Load("", false, environ); err != nil {
			t.Error(name, config.Detail(err))
		}
		sealed := strings.Contains(strings.Join(s.Volumes, " "), "/run/secrets/seal.key")
		if sealed != (name == "registry" || name == "ingest") {
			t.Errorf("%s has the sealing key: %v", name, sealed)
		}
	}
	slices.Sort(roles)
	if want := slices.Sorted(slices.Values(config.Roles)); !slices.Equal(roles, want) {
		t.Errorf("roles %q, not %q", roles, want)
	}
}

func TestTheSecretsAreMadeOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "secrets")
	read := func() (all []byte) {
		t.Helper()
		if out, err := exec.Command("sh", "secrets.sh", dir).CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		for _, name := range []string{"seal.key", "nats.env", "nats.creds"} {
			file := filepath.Join(dir, name)
			info, err := os.Stat(file)
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Error(info, err)
			}
			b, err := os.ReadFile(file)
			if err != nil || name == "seal.key" && len(b) != 32 {
				t.Error(len(b), err)
			}
			all = append(all, b...)
		}
		return all
	}
	if first := read(); !bytes.Equal(first, read()) {
		t.Error("the second run makes other ones")
	}
}

// The template for systemd is the unit, for a role.
func TestTheTemplateIsTheUnit(t *testing.T) {
	lines := func(file string) map[string]bool {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]bool{}
		for line := range strings.Lines(string(b)) {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				out[line] = true
			}
		}
		return out
	}
	unit, template := lines("weir.service"), lines("weir@.service")
	for line := range unit {
		if key, _, _ := strings.Cut(line, "="); !template[line] && !slices.Contains([]string{"Description", "ExecStart", "StateDirectory"}, key) {
			t.Errorf("the template has not %q", line)
		}
	}
	var environ []string
	for _, file := range []string{"weir@.service", "weir-seal.conf"} {
		for line := range lines(file) {
			if v, ok := strings.CutPrefix(line, "Environment="); ok {
				environ = append(environ, strings.Fields(v)...)
			}
		}
	}
	if unknown := config.UnknownEnv(environ); len(environ) != 3 || len(unknown) > 0 {
		t.Error(environ, unknown)
	}
}
