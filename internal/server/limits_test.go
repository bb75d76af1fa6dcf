package server

import (
	"reflect"
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
