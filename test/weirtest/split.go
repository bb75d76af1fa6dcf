package weirtest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/weir-iot/weir/internal/config"
	"github.com/weir-iot/weir/internal/server"
	"github.com/weir-iot/weir/test/natstest"
)

// Roles of a Split Weir, in the order they end.
var splitRoles = []string{"ingest", "rules", "functions", "shadow", "registry"}

// split reports whether tests run on several processes instead of one.
func split() bool { return os.Getenv("WEIR_TEST_SPLIT") == "1" }

// Split runs a Weir of five processes, one for each role, around one NATS server
// of its own, until the test ends. Its folder is that of the role registry.
func Split(t testing.TB, opts ...Option) *Weir {
	t.Helper()
	w := &Weir{t: t, o: build(t, opts)}
	return w.split(opts)
}

func (w *Weir) split(opts []Option) *Weir {
	w.t.Helper()
	if w.o.whole != "" {
		w.t.Skip("one process only: " + w.o.whole)
	}
	url := natstest.Start(w.t).URL()
	seal := filepath.Join(w.o.dir, "seal.key")
	for _, role := range splitRoles {
		dir := w.o.dir
		if role != "registry" {
			dir = filepath.Join(w.t.TempDir(), role)
		}
		all := append(append([]Option(nil), opts...), Roles(url, role), Dir(dir),
			Set(func(c *config.Config) {
				c.SealKeyFile = seal
				if role != "registry" {
					c.RulesDir = ""
				}
			}))
		w.parts = append(w.parts, &Weir{t: w.t, o: build(w.t, all)})
	}
	w.beginParts()
	w.t.Cleanup(func() {
		if w.in != nil {
			w.Stop()
		}
	})
	return w
}

// beginParts starts all processes together; they wait for what they need of one
// another.
func (w *Weir) beginParts() {
	w.t.Helper()
	var begun []*launched
	for _, p := range w.parts {
		begun = append(begun, p.launch())
	}
	for i, p := range w.parts {
		p.await(begun[i])
	}
	w.join()
}

// join makes one set of addresses of those of the parts.
func (w *Weir) join() {
	ends := w.Part("registry").Endpoints()
	in := w.Part("ingest").Endpoints()
	ends.MQTT, ends.MQTTS, ends.HTTPS, ends.Mux = in.MQTT, in.MQTTS, in.HTTPS, in.Mux
	ends.CAFile, ends.CertFile, ends.KeyFile, ends.AzureFile = in.CAFile, in.CertFile, in.KeyFile, in.AzureFile
	w.in = &inner{ends: ends}
	// The command line has one folder to go by.
	b, err := json.Marshal(ends)
	if err == nil {
		err = os.WriteFile(filepath.Join(w.o.dir, server.EndpointsFile), b, 0o600)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// Part returns the process of a Split Weir that has a role; the Weir itself where
// it is one process. After a Kill and BeginProcess of a part, Rejoin makes its
// new addresses the Weir's.
func (w *Weir) Part(role string) *Weir {
	w.t.Helper()
	if w.parts == nil {
		return w
	}
	for i, r := range splitRoles {
		if r == role {
			return w.parts[i]
		}
	}
	w.t.Fatalf("there is no role %q", role)
	return nil
}

// Rejoin takes over the addresses of parts that were started again.
func (w *Weir) Rejoin() {
	w.dropPublisher()
	w.join()
}
