package mqttclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// broker is a server of other people.
func broker(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := mochi.New(&mochi.Options{Logger: slog.New(slog.DiscardHandler)})
	if err := s.AddHook(new(auth.AllowHook), nil); err != nil {
		t.Fatal(err)
	}
	if err := s.AddListener(listeners.NewNet("l", l)); err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return l.Addr().String()
}

func TestPublishAndSubscribe(t *testing.T) {
	addr := broker(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, version := range []byte{4, 5} {
		t.Run(fmt.Sprint("version ", version), func(t *testing.T) {
			got := make(chan *Message, 2000)
			sub, err := Connect(ctx, Options{Addr: addr, ClientID: "sub", Version: version, OnMessage: func(m *Message) { got <- m }})
			if err != nil {
				t.Fatal(err)
			}
			defer sub.Close()
			if err := sub.Subscribe(ctx, 1, "a/#", "b"); err != nil {
				t.Fatal(err)
			}
			pub, err := Connect(ctx, Options{Addr: addr, ClientID: "pub", Version: version, Window: 7})
			if err != nil {
				t.Fatal(err)
			}
			defer pub.Close()
			var acks sync.WaitGroup
			const n = 500
			for i := range n {
				acks.Add(1)
				err := pub.PublishAsync(ctx, &Message{Topic: "a/x", QoS: 1, Payload: fmt.Append(nil, i), ContentType: "text/plain"}, func(err error) {
					if err != nil {
						t.Error(err)
					}
					acks.Done()
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			acks.Wait()
			for i := range n {
				m := <-got
				if m.Topic != "a/x" || string(m.Payload) != fmt.Sprint(i) || m.QoS != 1 || version == 5 && m.ContentType != "text/plain" {
					t.Fatalf("message %d: %+v", i, m)
				}
			}
			if err := pub.Publish(ctx, &Message{Topic: "b", Payload: []byte("0")}); err != nil {
				t.Fatal(err)
			}
			if m := <-got; m.Topic != "b" || m.QoS != 0 {
				t.Errorf("%+v", m)
			}
			if err := sub.Unsubscribe(ctx, "b"); err != nil {
				t.Error(err)
			}
			if err := pub.Publish(ctx, &Message{Topic: "b", QoS: 2}); err == nil {
				t.Error("QoS 2 is accepted")
			}
		})
	}
}

// A publish without an answer is told why; nothing waits for ever.
func TestTheConnectionEnds(t *testing.T) {
	client, server := net.Pipe()
	go func() {
		b := make([]byte, 4096)
		_, _ = server.Read(b)                      // CONNECT
		_, _ = server.Write([]byte{0x20, 2, 0, 0}) // CONNACK of 3.1.1
		_, _ = server.Read(b)                      // PUBLISH
		_, _ = server.Write([]byte{0xd0, 0xff})    // half a packet
		server.Close()
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := Connect(ctx, Options{ClientID: "c", Version: 4, Dial: func(context.Context, string) (net.Conn, error) { return client, nil }})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Publish(ctx, &Message{Topic: "a", QoS: 1}); !errors.Is(err, ErrClosed) {
		t.Errorf("%v", err)
	}
	<-c.Done()
	if err := c.Publish(ctx, &Message{Topic: "a", QoS: 1}); !errors.Is(err, ErrClosed) {
		t.Errorf("%v", err)
	}
	if err := c.Subscribe(ctx, 1, "a"); !errors.Is(err, ErrClosed) {
		t.Errorf("%v", err)
	}
	c.Close()
}

func TestRefusals(t *testing.T) {
	for name, tc := range map[string]struct {
		version byte
		connack []byte
		want    string
	}{
		"3.1.1": {4, []byte{0x20, 2, 0, 5}, "the server refused the CONNECT: not authorized (reason code 0x05)"},
		"5":     {5, []byte{0x20, 3, 0, 0x87, 0}, "the server refused the CONNECT: not authorized (reason code 0x87)"},
		"text":  {5, []byte{0x20, 8, 0, 0x85, 5, 0x1f, 0, 2, 'n', 'o'}, "the server refused the CONNECT: no (reason code 0x85)"},
		"huge":  {5, []byte{0x20, 0xff, 0xff, 0xff, 0x7f}, "waiting for CONNACK: a packet of 268435455 bytes: over the limit of 2097152"},
	} {
		client, server := net.Pipe()
		go func() {
			b := make([]byte, 4096)
			_, _ = server.Read(b)
			_, _ = server.Write(tc.connack)
			_, _ = io.Copy(io.Discard, server)
		}()
		_, err := Connect(t.Context(), Options{ClientID: "c", Version: tc.version, Dial: func(context.Context, string) (net.Conn, error) { return client, nil }})
		if err == nil || err.Error() != tc.want {
			t.Errorf("%s: %v", name, err)
		}
		server.Close()
	}
}

// A server that says nothing costs no more than the caller's patience.
func TestConnectEndsWithItsContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Connect(ctx, Options{Addr: l.Addr().String(), ClientID: "c"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

// What a server sends may be anything.
func FuzzRead(f *testing.F) {
	f.Add([]byte{0x20, 3, 0, 0, 0, 0x30, 5, 0, 1, 'a', 0, 'x'})
	f.Add([]byte{0x20, 3, 0, 0, 0, 0x90, 4, 0, 1, 0, 0x87})
	f.Add([]byte{0x20, 2, 0, 0, 0xe0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		client, server := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, server) }()
		go func() { _, _ = server.Write(b); server.Close() }()
		c, err := Connect(t.Context(), Options{ClientID: "c", MaxPacket: 1 << 16, OnMessage: func(*Message) {},
			Dial: func(context.Context, string) (net.Conn, error) { return client, nil }})
		if err == nil {
			<-c.Done()
			c.Abort()
		}
		server.Close()
	})
}
