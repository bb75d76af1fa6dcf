package ingest

import (
	"testing"
	"time"

	"github.com/weir-iot/weir/internal/topic"
)

func TestPublishClass(t *testing.T) {
	for n, want := range map[topic.Name]Class{
		"a/b":                               Open,
		"$aws/rules/r1":                     Open,
		"$aws/rules/r1/a/b":                 Open,
		"$aws/rules/":                       Reserved,
		"$aws/rules":                        Reserved,
		"$aws/things/t/shadow/update":       Open,
		"$aws/things//shadow/update":        Reserved,
		"$aws/things/t/shadow/update/delta": Reserved,
		"$aws/things/t/shadow/name/n/get":   Open,
		"$aws/things/t/jobs/get":            Private,
		"$aws/things/t/jobs/j1/update":      Private,
		"$aws/things/t/jobs/notify":         Reserved,
		"$aws/certificates/create/json":     Private,
		"$aws/events/presence/connected/c":  Reserved,
		"$SYS/x":                            Reserved,
		"$":                                 Reserved,
		"$aws":                              Reserved,
		"$aws/provisioning-templates/x/provision/json": Private,
	} {
		if got := Publish(n); got != want {
			t.Errorf("Publish(%q) = %d, want %d", n, got, want)
		}
	}
}

func TestSubscribeClass(t *testing.T) {
	for f, want := range map[topic.Filter]bool{
		"#": true, "a": true, "$aws/things/t/#": true, "$aws/#": false, "$aws/+/t": false, "$aws/rules/r": false,
		"$SYS/#": false, "$aws/events/presence/connected/+": true, "$": false,
	} {
		if got := Subscribe(f); got != want {
			t.Errorf("Subscribe(%q) = %v", f, got)
		}
	}
	for n, want := range map[topic.Name]bool{
		"$aws/things/t/jobs/get/accepted": true, "$aws/things/t/jobs/j/get/rejected": true,
		"$aws/certificates/create/json/accepted": true, "$aws/things/t/jobs/notify": false, "a/accepted": false,
		"$aws/things/t/shadow/get/accepted": false,
	} {
		if got := IsPrivate(n); got != want {
			t.Errorf("IsPrivate(%q) = %v", n, got)
		}
	}
}

func TestKeepAlive(t *testing.T) {
	l := AWS()
	for in, want := range map[uint16]time.Duration{0: 1200 * time.Second, 1: 30 * time.Second, 29: 30 * time.Second, 31: 31 * time.Second, 1201: 1200 * time.Second} {
		if got := l.KeepAlive(in); got != want {
			t.Errorf("KeepAlive(%d) = %v", in, got)
		}
	}
}

func TestBothSetsAreValid(t *testing.T) {
	for _, l := range []Limits{AWS(), Relaxed()} {
		if err := l.Validate(); err != nil {
			t.Error(l.Name, err)
		}
		l.InFlight = 0
		if l.Validate() == nil {
			t.Error(l.Name, "no message in flight is accepted")
		}
	}
}
