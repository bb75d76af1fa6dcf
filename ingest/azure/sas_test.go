package azure

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"log/slog"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/kv"
)

// memory is a bucket of one process.
type memory struct {
	rev    uint64
	values map[string]kv.Entry
	told   func(kv.Entry)
}

func (m *memory) Commit(_ context.Context, changes []kv.Change) (uint64, error) {
	for _, c := range changes {
		e := m.values[c.Key]
		if len(e.Value) == 0 {
			e.Revision = 0
		}
		if !c.Any && e.Revision != c.Expected {
			return 0, errs.Errorf("memory", errs.Conflict, "conflict")
		}
	}
	for _, c := range changes {
		m.rev++
		e := kv.Entry{Key: c.Key, Value: c.Value, Revision: m.rev}
		m.values[c.Key] = e
		m.told(e)
	}
	return m.rev, nil
}

func (m *memory) Watch(context.Context, string, func(kv.Entry)) error { return nil }

type plainBox struct{}

func (plainBox) Seal(name string, plain []byte) []byte { return append([]byte(name+"\n"), plain...) }
func (plainBox) Open(name string, sealed []byte) ([]byte, error) {
	return []byte(strings.TrimPrefix(string(sealed), name+"\n")), nil
}

func (m *memory) Get(_ context.Context, key string) (kv.Entry, error) {
	if e := m.values[key]; len(e.Value) > 0 {
		return e, nil
	}
	return kv.Entry{}, errs.Errorf("memory", errs.NotFound, "not there")
}

// noLog takes events and forgets them.
type noLog struct{ Log }

func (noLog) Append(context.Context, *event.Event, eventlog.Receipt, uint64) error { return nil }

type noTwins struct{ Twins }

func (noTwins) Delete(context.Context, string, string) error { return nil }

var testNow = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// newTestHub returns a hub that runs without a log.
func newTestHub(t testing.TB) *Hub {
	t.Helper()
	h := &Hub{
		o:   Options{Policies: NewPolicies(), Hosts: []string{"hub.example", "localhost"}, Twins: noTwins{}},
		now: func() time.Time { return testNow }, links: map[string]*Device{}, seen: map[string]time.Time{}, queue: newQueue(nil), logger: slog.New(slog.DiscardHandler),
	}
	h.o.Log, h.o.Others, h.o.First = noLog{}, func() int { return 0 }, func() bool { return true }
	m := &memory{values: map[string]kv.Entry{}}
	h.ids = newIdentities(m, plainBox{})
	h.ids.loaded = true
	m.told = func(e kv.Entry) {
		device, module := parseKey(e.Key)
		if len(e.Value) == 0 {
			delete(h.ids.all, nameOf(device, module))
		} else {
			i, err := decodeIdentity(e.Key, e.Value, plainBox{})
			if err != nil {
				t.Fatal(err)
			}
			i.revision = e.Revision
			h.ids.all[i.name()] = i
		}
		h.ids.revision = e.Revision
		h.changed(nameOf(device, module))
	}
	return h
}

func (h *Hub) mustStore(t testing.TB, device, module string, d identityDocument) *Identity {
	t.Helper()
	i, _, err := h.store(t.Context(), device, module, &d, false, false, "")
	if err != nil {
		t.Fatal(err)
	}
	return h.ids.get(i.Device, i.Module)
}

func connect(h *Hub, username, clientID, password string) (*auth.Principal, error) {
	return h.Authenticate(context.Background(), &auth.Connection{
		Listener: auth.TLS, TLS: &tls.ConnectionState{ServerName: "localhost"}, ClientID: clientID, Username: username, Password: []byte(password),
	})
}

func mustToken(t testing.TB, resource, policy, key string, expires time.Time) string {
	t.Helper()
	s, err := MakeToken(resource, policy, key, expires)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTokens(t *testing.T) {
	h := newTestHub(t)
	one, ten := h.mustStore(t, "dev1", "", identityDocument{}), h.mustStore(t, "dev10", "", identityDocument{})
	later := testNow.Add(time.Hour)
	policy := func(name string) Policy {
		for _, p := range h.o.Policies {
			if p.Name == name {
				return p
			}
		}
		t.Fatal(name)
		return Policy{}
	}
	good := mustToken(t, "hub.example/devices/dev1", "", one.PrimaryKey, later)
	device := policy("device")
	service := policy("service")
	raw := func(sr, se, skn, key string) string {
		k, _ := base64.StdEncoding.DecodeString(key)
		s := tokenPrefix + "sr=" + sr + "&sig=" + url.QueryEscape(base64.StdEncoding.EncodeToString(mac(k, sr+"\n"+se))) + "&se=" + se
		if skn != "" {
			s += "&skn=" + skn
		}
		return s
	}
	se := strconv.FormatInt(later.Unix(), 10)
	sig := func(f func(string) string) string {
		i := strings.Index(good, "sig=") + 4
		j := strings.Index(good, "&se=")
		text, _ := url.QueryUnescape(good[i:j])
		return good[:i] + url.QueryEscape(f(text)) + good[j:]
	}
	const own = "hub.example%2Fdevices%2Fdev1"
	tests := []struct {
		name, token string
		ok          bool
	}{
		{"primary key", good, true},
		{"secondary key", mustToken(t, "hub.example/devices/dev1", "", one.SecondaryKey, later), true},
		{"lower case encoding", raw("hub.example%2fdevices%2fdev1", se, "", one.PrimaryKey), true},
		{"not encoded", raw("hub.example/devices/dev1", se, "", one.PrimaryKey), true},
		{"empty skn", good + "&skn=", true},
		{"hub policy", mustToken(t, "hub.example", "device", device.Primary, later), true},
		{"hub policy, secondary key", mustToken(t, "hub.example/devices", "device", device.Secondary, later), true},
		{"hub policy for the device", mustToken(t, "hub.example/devices/dev1", "device", device.Primary, later), true},

		{"se past", mustToken(t, "hub.example/devices/dev1", "", one.PrimaryKey, testNow.Add(-time.Second)), false},
		{"se now", mustToken(t, "hub.example/devices/dev1", "", one.PrimaryKey, testNow), false},
		{"se missing", strings.Split(good, "&se=")[0], false},
		{"se empty", raw(own, "", "", one.PrimaryKey), false},
		{"se not a number", raw(own, "soon", "", one.PrimaryKey), false},
		{"se negative", raw(own, "-1", "", one.PrimaryKey), false},
		{"se with a sign", raw(own, "+"+se, "", one.PrimaryKey), false},
		{"se a fraction", raw(own, se+".5", "", one.PrimaryKey), false},
		{"se 10^12", raw(own, "1000000000000", "", one.PrimaryKey), false},
		{"se changed", strings.Replace(good, "&se="+se, "&se="+strconv.FormatInt(later.Unix()+1, 10), 1), false},
		{"sr of a sibling, own key", mustToken(t, "hub.example/devices/dev10", "", one.PrimaryKey, later), false},
		{"sr of a sibling, its key", mustToken(t, "hub.example/devices/dev10", "", ten.PrimaryKey, later), false},
		{"key of a sibling", mustToken(t, "hub.example/devices/dev1", "", ten.PrimaryKey, later), false},
		{"sr a prefix of the id", mustToken(t, "hub.example/devices/dev", "", one.PrimaryKey, later), false},
		{"sr of all devices with a device's key", mustToken(t, "hub.example/devices", "", one.PrimaryKey, later), false},
		{"sr below the device", mustToken(t, "hub.example/devices/dev1/messages", "", one.PrimaryKey, later), false},
		{"sr with another case", mustToken(t, "hub.example/devices/DEV1", "", one.PrimaryKey, later), false},
		{"sr encoded twice", raw("hub.example%252Fdevices%252Fdev1", se, "", one.PrimaryKey), false},
		{"sr with an empty segment", raw("hub.example%2F%2Fdevices%2Fdev1", se, "", one.PrimaryKey), false},
		{"sr with dots", raw("hub.example%2Fdevices%2Fdev10%2F..%2Fdev1", se, "", one.PrimaryKey), false},
		{"sr of another hub", mustToken(t, "other.example/devices/dev1", "", one.PrimaryKey, later), false},
		{"sr missing", tokenPrefix + "sig=x&se=" + se, false},
		{"sr not encoded right", raw("hub.example%2", se, "", one.PrimaryKey), false},
		{"policy of a sibling's prefix", mustToken(t, "hub.example/devices/dev", "device", device.Primary, later), false},
		{"policy for the sibling", mustToken(t, "hub.example/devices/dev10", "device", device.Primary, later), false},
		{"skn of another policy", mustToken(t, "hub.example", "iothubowner", device.Primary, later), false},
		{"skn without the right", mustToken(t, "hub.example", "service", service.Primary, later), false},
		{"skn unknown", mustToken(t, "hub.example", "nobody", device.Primary, later), false},
		{"skn with a device's key", mustToken(t, "hub.example/devices/dev1", "device", one.PrimaryKey, later), false},
		{"policy's key without skn", mustToken(t, "hub.example/devices/dev1", "", device.Primary, later), false},
		{"policy expired", mustToken(t, "hub.example", "device", device.Primary, testNow.Add(-time.Second)), false},
		{"signature empty", sig(func(string) string { return "" }), false},
		{"signature truncated", sig(func(s string) string { return s[:20] }), false},
		{"signature truncated, good Base64", sig(func(string) string { return "AAAA" }), false},
		{"signature not Base64", sig(func(s string) string { return "*" + s[1:] }), false},
		{"signature URL Base64 ", sig(func(string) string { return strings.Repeat("-_", 21) + "A=" }), false},
		{"signature with a bit turned", sig(func(s string) string { return string(s[0]^1) + s[1:] }), false},
		{"field twice", good + "&sr=" + own, false},
		{"unknown field", good + "&x=y", false},
		{"no scheme", strings.TrimPrefix(good, tokenPrefix), false},
		{"only the scheme", tokenPrefix, false},
		{"key instead of a token", one.PrimaryKey, false},
		{"too long", good + "&skn=" + strings.Repeat("a", maxToken), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := connect(h, "hub.example/dev1/?api-version=2021-04-12", "dev1", tt.token)
			if tt.ok != (err == nil) {
				t.Fatalf("err = %v", err)
			}
			if err != nil && !errs.Is(err, errs.Unauthorized) {
				t.Fatalf("kind of %v", err)
			}
			if err == nil && (!p.Expires.Equal(later) || p.ID != "azure:dev1") {
				t.Errorf("principal %+v", p)
			}
		})
	}
}

func TestRotatedKeys(t *testing.T) {
	h := newTestHub(t)
	i := h.mustStore(t, "dev1", "", identityDocument{})
	old, second := i.PrimaryKey, i.SecondaryKey
	login := func(key string) (*auth.Principal, error) {
		return connect(h, "hub.example/dev1/?api-version=2021-04-12", "dev1", mustToken(t, "hub.example/devices/dev1", "", key, testNow.Add(time.Hour)))
	}
	p, err := login(old)
	if err != nil {
		t.Fatal(err)
	}
	fresh := newKey()
	h.mustStore(t, "dev1", "", identityDocument{Authentication: &authentication{Keys: &symmetricKey{&fresh, &second}}})
	for key, ok := range map[string]bool{old: false, second: true, fresh: true} {
		if _, err := login(key); ok != (err == nil) {
			t.Errorf("ok %v: %v", ok, err)
		}
	}
	if (&Authorizer{Hub: h}).Still(p) == nil {
		t.Error("a connection made by a key that is gone stays")
	}
}

func TestWhoIsRefused(t *testing.T) {
	h := newTestHub(t)
	i := h.mustStore(t, "dev1", "", identityDocument{})
	off := h.mustStore(t, "off", "", identityDocument{Status: "disabled"})
	m := h.mustStore(t, "dev1", "mod", identityDocument{})
	later := testNow.Add(time.Hour)
	token := mustToken(t, "hub.example/devices/dev1", "", i.PrimaryKey, later)
	for _, tt := range []struct {
		name, user, client, password string
		ok                           bool
	}{
		{"today's form", "hub.example/dev1/?api-version=2021-04-12&DeviceClientType=py%2F1", "dev1", token, true},
		{"older form", "hub.example/dev1/api-version=2016-11-14", "dev1", token, true},
		{"oldest form", "hub.example/dev1", "dev1", token, true},
		{"with a port", "localhost:8883/dev1/?api-version=2021-04-12", "dev1", mustToken(t, "localhost:8883/devices/dev1", "", i.PrimaryKey, later), true},
		{"module", "hub.example/dev1/mod/?api-version=2021-04-12", "dev1/mod", mustToken(t, "hub.example/devices/dev1/modules/mod", "", m.PrimaryKey, later), true},
		{"module with its device's token", "hub.example/dev1/mod/?api-version=2021-04-12", "dev1/mod", token, false},
		{"device with its module's token", "hub.example/dev1/?api-version=2021-04-12", "dev1", mustToken(t, "hub.example/devices/dev1/modules/mod", "", m.PrimaryKey, later), false},
		{"client id of another", "hub.example/dev1/?api-version=2021-04-12", "dev10", token, false},
		{"another hub", "other.example/dev1/?api-version=2021-04-12", "dev1", token, false},
		{"token of another hub", "localhost/dev1/?api-version=2021-04-12", "dev1", token, false},
		{"disabled", "hub.example/off/?api-version=2021-04-12", "off", mustToken(t, "hub.example/devices/off", "", off.PrimaryKey, later), false},
		{"not there", "hub.example/nobody/?api-version=2021-04-12", "nobody", mustToken(t, "hub.example/devices/nobody", "", i.PrimaryKey, later), false},
		{"no password, no certificate", "hub.example/dev1/?api-version=2021-04-12", "dev1", "", false},
		{"no device", "hub.example//?api-version=2021-04-12", "", token, false},
	} {
		if _, err := connect(h, tt.user, tt.client, tt.password); tt.ok != (err == nil) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestClaims(t *testing.T) {
	h := newTestHub(t)
	for user, want := range map[string]bool{
		"hub.example/dev1/?api-version=2021-04-12": true, "any/dev1/?api-version=2021-04-12": true, "localhost/dev1": true, "localhost:8883/dev1/": true,
		"": false, "?SDK=Python&Version=1": false, "a/b": false, "user?x-amz-customauthorizer-name=N": false, "/dev1": false, "localhost": false,
	} {
		if got := h.Claims(&auth.Connection{TLS: &tls.ConnectionState{ServerName: "localhost"}, Username: user}); got != want {
			t.Errorf("%q: %v", user, got)
		}
	}
	if h.Claims(&auth.Connection{Username: "localhost/dev1"}) {
		t.Error("claims a connection without TLS")
	}
}

func FuzzParseToken(f *testing.F) {
	s, _ := MakeToken("hub.example/devices/dev1", "device", newKey(), testNow)
	f.Add(s)
	f.Add(tokenPrefix + "sr=a&sig=b&se=1")
	f.Add("SharedAccessSignature sr=%&sig=%&se=99999999999")
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := ParseToken(s)
		if err != nil {
			return
		}
		if len(tok.Resource) == 0 || len(tok.sig) != 32 || tok.Expires.Year() > 2286 {
			t.Errorf("%q: %+v", s, tok)
		}
		if tok.Signed(newKey()) {
			t.Error("signed by a new key")
		}
	})
}

func FuzzParseUser(f *testing.F) {
	f.Add("hub/dev/?api-version=2021-04-12&DeviceClientType=a")
	f.Add("hub/dev/mod/api-version=2016-11-14")
	f.Fuzz(func(t *testing.T, s string) {
		u, ok := parseUser(s)
		if ok && (u.hub == "" || u.device == "" || strings.Contains(u.hub+u.device+u.module, "/")) {
			t.Errorf("%q: %+v", s, u)
		}
	})
}
