package server

import (
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/ingest"
	"github.com/weir-iot/weir/internal/config"
	"github.com/weir-iot/weir/internal/topic"
)

func TestEachLimitMayBeSet(t *testing.T) {
	s := &Server{cfg: config.Default(false)}
	if got := s.limits(); got != ingest.AWS() {
		t.Errorf("%+v", got)
	}
	want := ingest.AWS()
	at := reflect.ValueOf(&want).Elem()
	for key, field := range map[string]string{
		"topic_bytes": "TopicBytes", "topic_slashes": "TopicSlashes", "subscriptions": "Subscriptions", "per_subscribe": "PerSubscribe",
		"in_flight": "InFlight", "topic_aliases": "TopicAliases", "client_id_bytes": "ClientID", "share_name_bytes": "ShareName",
	} {
		at.FieldByName(field).SetInt(77)
		if err := s.cfg.Set("limit."+key, "77"); err != nil {
			t.Error(err)
		}
	}
	for key, field := range map[string]string{
		"keep_alive_min": "KeepAliveMin", "keep_alive_max": "KeepAliveMax", "message_expiry_max": "MessageExpiryMax",
		"session_expiry": "SessionExpiry", "session_expiry_max": "SessionExpiryMax",
	} {
		at.FieldByName(field).SetInt(int64(100 * time.Second))
		if err := s.cfg.Set("limit."+key, "100s"); err != nil {
			t.Error(err)
		}
	}
	for key, field := range map[string]string{"subscription_ids": "SubscriptionIDs", "retained_on_wildcard": "RetainedOnWildcard", "sni_optional": "SNIOptional"} {
		at.FieldByName(field).SetBool(true)
		if err := s.cfg.Set("limit."+key, "true"); err != nil {
			t.Error(err)
		}
	}
	for key, value := range map[string]string{"payload": "512KiB", "matching": "standard"} {
		if err := s.cfg.Set("limit."+key, value); err != nil {
			t.Error(err)
		}
	}
	want.Payload, want.PacketBytes, want.Mode = 512<<10, 512<<10+149_504-128<<10, topic.Standard
	got := s.limits()
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if err := got.Validate(); err != nil {
		t.Error(err)
	}
	// Each field can be set, and each back again.
	differ := 0
	a, b := reflect.ValueOf(got), reflect.ValueOf(ingest.AWS())
	for i := range a.NumField() {
		if !a.Field(i).Equal(b.Field(i)) {
			differ++
		}
	}
	if differ != a.NumField()-1 { // all but the name
		t.Errorf("%d of %d fields can be set", differ, a.NumField()-1)
	}
	for i := range config.Keys {
		if k := &config.Keys[i]; k.Default == "profile" {
			if err := s.cfg.Set(k.Path, "profile"); err != nil {
				t.Error(err)
			}
		}
	}
	if s.limits() != ingest.AWS() || s.rates() != (ingest.Rates{}) {
		t.Errorf("%+v", s.limits())
	}
	s.cfg.Rates = "aws"
	if s.rates() != ingest.AWSRates() {
		t.Error(s.rates())
	}
}

// Limits that cannot hold together are refused with their place and a remedy.
func TestLimitsThatContradict(t *testing.T) {
	for text, want := range map[string]string{
		"limit:\n  packet_bytes: 4KiB\n":                             "weir.yaml:2:17: limit.packet_bytes: 4KiB cannot hold a message of 128KiB",
		"limits: relaxed\nlimit:\n  packet_bytes: 1MiB\n":            "weir.yaml:3:17: limit.packet_bytes",
		"limit:\n  payload: 1MiB\n  packet_bytes: 1MiB\n":            "weir.yaml:3:17: limit.packet_bytes",
		"limit:\n  keep_alive_max: 20s\n":                            "weir.yaml:2:19: limit.keep_alive_max: the least keep-alive would be 30s and the longest 20s: lower limit.keep_alive_min",
		"limit:\n  keep_alive_min: 1h\n":                             "weir.yaml:2:19: limit.keep_alive_min",
		"limit:\n  session_expiry: 30d\n":                            "weir.yaml:2:19: limit.session_expiry: ",
		"limit:\n  session_expiry_max: 10s\n":                        "weir.yaml:2:23: limit.session_expiry_max: ",
		"limit:\n  subscriptions: 4\n":                               "weir.yaml:2:18: limit.subscriptions: one SUBSCRIBE could ask for 8 filters and a connection have 4",
		"limit:\n  payload: 4MiB\nsafety:\n  retained_bytes: 2MiB\n": "weir.yaml:4:19: safety.retained_bytes: 2MiB cannot hold one message of 4MiB",
		"limit:\n  keep_alive_min: 1s\n  keep_alive_max: 1s\n":       "",
		"limit:\n  payload: 8MiB\n":                                  "",
	} {
		t.Chdir(t.TempDir())
		if err := os.WriteFile("weir.yaml", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := config.Load("weir.yaml", false, nil, Check)
		if want == "" && err != nil || want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	if _, err := config.Load("", false, []string{"WEIR_LIMIT_SUBSCRIPTIONS=3"}, Check); err == nil || !strings.Contains(err.Error(), "limit.subscriptions") {
		t.Error(err)
	}
}
