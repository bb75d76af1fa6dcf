package eventlog

import (
	"bytes"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The example of an external server: Weir works on it, data teams read with a
// consumer that was made for them, and reach nothing else of Weir's account.
func TestTheExampleServerKeepsDataTeamsOut(t *testing.T) {
	t.Setenv("NATS_WEIR_PASSWORD", "w")
	t.Setenv("NATS_DATA_PASSWORD", "d")
	o, err := server.ProcessConfigFile(filepath.Join("..", "..", "deploy", "nats", "nats-server.conf"))
	if err != nil {
		t.Fatal(err)
	}
	if !o.SyncAlways || o.MaxPayload < MaxPayload+maxHeader {
		t.Error("sync_interval or max_payload is not what Weir needs")
	}
	o.Port, o.StoreDir, o.NoSigs, o.NoLog = server.RANDOM_PORT, t.TempDir(), true, true
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("not ready")
	}
	u, err := url.Parse(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	creds := filepath.Join(t.TempDir(), "nats.password")
	if err := os.WriteFile(creds, []byte("weir:w\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var logs []*Log
	for range 2 {
		logs = append(logs, start(t, Options{URL: u.String(), Creds: creds, Logger: discard()}))
	}
	u.User = url.UserPassword("weir", "w")
	meet(t, logs...)
	weir, js := outsider(t, u.String())
	if _, err := js.CreateConsumer(t.Context(), "EVENTS-0", jetstream.ConsumerConfig{Durable: "team", AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
		t.Fatal(err)
	}
	heard, err := weir.SubscribeSync("weir.>")
	if err != nil || weir.Flush() != nil {
		t.Fatal(err)
	}
	if err := logs[0].Publish(t.Context(), ev("a", 1)); err != nil {
		t.Fatal(err)
	}
	if m, err := heard.NextMsg(10 * time.Second); err != nil || m == nil {
		t.Fatal("Weir's processes say nothing in their account: ", err)
	}

	u.User = url.UserPassword("data", "d")
	data, err := nats.Connect(u.String())
	if err != nil {
		t.Fatal(err)
	}
	defer data.Close()
	ask := func(subject, body string) (*nats.Msg, error) {
		return data.Request(subject, []byte(body), 2*time.Second)
	}
	inbox := data.NewInbox()
	sub, err := data.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	if err := data.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.EVENTS-0.team", inbox, []byte(`{"batch":1}`)); err != nil {
		t.Fatal(err)
	}
	if m, err := sub.NextMsg(10 * time.Second); err != nil || string(m.Data) != `{"n":1}` {
		t.Errorf("%v, %v", m, err)
	}
	for _, subject := range []string{
		"ev.0.a", "$KV.registry.x", "$JS.API.STREAM.LIST", "$JS.API.STREAM.DELETE.EVENTS-0", "$JS.API.STREAM.INFO.KV_sessions",
		"$JS.API.CONSUMER.CREATE.EVENTS-0.mine", "$JS.API.STREAM.PURGE.EVENTS-0", "weir.rules.status", "$SRV.PING",
	} {
		if m, err := ask(subject, `{}`); err == nil && !bytes.Contains(m.Data, []byte(`"error":{"code":503`)) {
			t.Errorf("%s is answered: %s", subject, m.Data)
		}
	}
	secrets, err := data.SubscribeSync(">")
	if err != nil {
		t.Fatal(err)
	}
	if err := logs[0].Publish(t.Context(), ev("a", 2)); err != nil {
		t.Fatal(err)
	}
	for {
		m, err := secrets.NextMsg(time.Second)
		if err != nil {
			break
		}
		// Their own account is told of their own requests.
		if !strings.HasPrefix(m.Subject, "$JS.EVENT.ADVISORY.") {
			t.Errorf("data teams hear %s", m.Subject)
		}
	}
}
