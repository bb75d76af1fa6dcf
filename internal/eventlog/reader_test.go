package eventlog

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// reader connects as a data team does.
func reader(t *testing.T, l *Log, creds string) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect("nats://"+l.Addr(), nats.UserCredentials(creds), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func TestReaderReadsEventsAndNothingElse(t *testing.T) {
	dir := t.TempDir()
	o := Options{Dir: dir, Durability: OS, ListenAddr: "127.0.0.1:0", Partitions: 2}
	l, stop := open(t, o)
	creds := filepath.Join(dir, "nats-reader.creds")
	if st, err := os.Stat(creds); err != nil || st.Mode().Perm() != 0o600 {
		t.Fatal(st.Mode(), err)
	}
	const n = 250
	for i := range n {
		if err := l.Publish(t.Context(), ev("a/b c", i)); err != nil {
			t.Fatal(err)
		}
	}
	p := int(l.Partition("c"))
	stream := l.parts[p].stream
	nc := reader(t, l, creds)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()

	t.Run("ordered consumer", func(t *testing.T) {
		c, err := js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{FilterSubjects: []string{"ev.*.m.a.>"}})
		if err != nil {
			t.Fatal(err)
		}
		it, err := c.Messages()
		if err != nil {
			t.Fatal(err)
		}
		defer it.Stop()
		for i := range n {
			m, err := it.Next(jetstream.NextContext(ctx))
			if err != nil {
				t.Fatal(i, err)
			}
			if string(m.Data()) != fmt.Sprintf(`{"n":%d}`, i) || m.Headers().Get("c") != "c" || m.Subject() != fmt.Sprintf("ev.%d.m.a.b=20c", p) {
				t.Fatalf("%d: %s %s %v", i, m.Subject(), m.Data(), m.Headers())
			}
		}
	})
	t.Run("durable consumer with acks", func(t *testing.T) {
		c, err := js.CreateConsumer(ctx, stream, jetstream.ConsumerConfig{Durable: "team", AckPolicy: jetstream.AckExplicitPolicy})
		if err != nil {
			t.Fatal(err)
		}
		b, err := c.Fetch(10)
		if err != nil {
			t.Fatal(err)
		}
		got := 0
		for m := range b.Messages() {
			if err := m.DoubleAck(ctx); err != nil {
				t.Fatal(err)
			}
			got++
		}
		if got != 10 || b.Error() != nil {
			t.Fatal(got, b.Error())
		}
		if i, err := c.Info(ctx); err != nil || i.AckFloor.Stream != 10 {
			t.Fatal(i, err)
		}
		if err := js.DeleteConsumer(ctx, stream, "team"); err != nil {
			t.Fatal(err)
		}
	})

	// What it must not do. A refused request has an error or no answer.
	kv, err := l.store.State(stream)
	if err != nil {
		t.Fatal(err)
	}
	short := func() (context.Context, context.CancelFunc) { return context.WithTimeout(ctx, 200*time.Millisecond) }
	refused := map[string]func(context.Context) error{
		"publish an event": func(ctx context.Context) error {
			_, err := nc.RequestWithContext(ctx, fmt.Sprintf("ev.%d.m.x", p), nil)
			return err
		},
		"delete the stream": func(ctx context.Context) error { return js.DeleteStream(ctx, stream) },
		"purge the stream": func(ctx context.Context) error {
			_, err := nc.RequestWithContext(ctx, "$JS.API.STREAM.PURGE."+stream, nil)
			return err
		},
		"make a stream": func(ctx context.Context) error {
			_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "X", Subjects: []string{"x.>"}})
			return err
		},
		"read another stream": func(ctx context.Context) error { _, err := js.Stream(ctx, "KV_registry"); return err },
		"make a consumer of another stream": func(ctx context.Context) error {
			_, err := js.CreateConsumer(ctx, "KV_registry", jetstream.ConsumerConfig{})
			return err
		},
		"write a bucket": func(ctx context.Context) error {
			_, err := nc.RequestWithContext(ctx, "$KV.registry.x", []byte("y"))
			return err
		},
		"make a push consumer": func(ctx context.Context) error {
			m, err := nc.RequestWithContext(ctx, "$JS.API.CONSUMER.CREATE."+stream,
				fmt.Appendf(nil, `{"stream_name":%q,"config":{"deliver_subject":"$KV.registry.x"}}`, stream))
			if err == nil && string(m.Data) != "" {
				return fmt.Errorf("%s", m.Data)
			}
			return err
		},
		"call the system": func(ctx context.Context) error {
			_, err := nc.RequestWithContext(ctx, "$SYS.REQ.SERVER.PING", nil)
			return err
		},
	}
	for what, f := range refused {
		t.Run("may not "+what, func(t *testing.T) {
			ctx, cancel := short()
			defer cancel()
			if err := f(ctx); err == nil {
				t.Error("it may")
			}
		})
	}
	t.Run("an answer cannot be aimed at an event's subject", func(t *testing.T) {
		aim := fmt.Sprintf("ev.%d.m.x", p)
		if err := nc.PublishRequest("$JS.API.STREAM.INFO."+stream, aim, nil); err != nil {
			t.Fatal(err)
		}
		if err := nc.PublishRequest("$JS.API.DIRECT.GET."+stream, aim, []byte(`{"seq":1}`)); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	})
	t.Run("nothing of Weir's is to be heard", func(t *testing.T) {
		sub, err := nc.SubscribeSync(">")
		if err == nil {
			if err := l.Publish(ctx, ev("a/b c", n)); err != nil {
				t.Fatal(err)
			}
			if m, err := sub.NextMsg(100 * time.Millisecond); err == nil {
				t.Error(m.Subject)
			}
		}
	})
	if now, err := l.store.State(stream); err != nil || now.LastSeq != kv.LastSeq+1 || now.Messages != kv.Messages+1 {
		t.Fatalf("the stream went from %+v to %+v, %v", kv, now, err)
	}
	if _, err := nats.Connect("nats://" + l.Addr()); err == nil {
		t.Error("anybody may connect")
	}
	if _, err := nats.Connect("nats://"+l.Addr(), nats.UserInfo("weir", "")); err == nil {
		t.Error("the internal user may connect")
	}
	nc.Close()
	stop()

	// A copy of the credentials is good after a restart, another folder's is not.
	l = start(t, o)
	nc = reader(t, l, creds)
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	nc.Close()
	other := t.TempDir()
	start(t, Options{Dir: other, Durability: OS, ListenAddr: "127.0.0.1:0"})
	if c, err := nats.Connect("nats://"+l.Addr(), nats.UserCredentials(filepath.Join(other, "nats-reader.creds"))); err == nil {
		c.Close()
		t.Error("another log's credentials are good here")
	}
}
