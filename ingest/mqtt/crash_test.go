package mqtt

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/nats-io/nats.go"

	"github.com/weir-iot/weir/ingest"
	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/kv"
)

// The crash test starts this test binary again as a gateway on the real log,
// and kills it.
const (
	childDir  = "WEIR_TEST_CHILD_DIR"
	childAddr = "WEIR_TEST_CHILD_ADDR"
	childURL  = "WEIR_TEST_CHILD_URL" // of a NATS server, for one gateway of several
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		if err := childMain(dir); err != nil {
			fmt.Fprintln(os.Stderr, "child:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// childMain serves until it is killed, and prints its address first.
func childMain(dir string) error {
	ctx := context.Background()
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	url := os.Getenv(childURL)
	l, err := eventlog.Open(ctx, eventlog.Options{Dir: dir, URL: url, Logger: logger})
	if err != nil {
		return err
	}
	leases, err := kv.Open(ctx, l, kv.Config{Name: "leases"})
	if err != nil {
		return err
	}
	var between *nats.Conn
	if url != "" {
		if between, err = l.Store().Connect("test"); err != nil {
			return err
		}
	}
	retained, err := kv.Open(ctx, l, kv.Config{Name: "retained"})
	if err != nil {
		return err
	}
	sessions, err := kv.Open(ctx, l, kv.Config{Name: "sessions"})
	if err != nil {
		return err
	}
	failed := make(chan error, 2)
	go func() { failed <- l.Run(ctx) }()
	addr := os.Getenv(childAddr)
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	s, err := New(Options{
		Log: OnLog(l), Authenticator: insider{}, Authorizer: auth.AllowAll{}, Limits: ingest.AWS(),
		Retained: retained, Sessions: sessions, Leases: leases, LeaseTTL: testTTL, Conn: between, Plain: addr, Logger: logger,
	})
	if err != nil {
		return err
	}
	go func() { failed <- s.Run(ctx) }()
	fmt.Println(s.Addr(auth.Plain))
	return <-failed
}

// child starts a gateway on dir.
func child(t *testing.T, dir string, env ...string) (addr string, kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), childDir+"="+dir), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	kill = func() {
		once.Do(func() {
			cmd.Process.Kill()
			cmd.Wait()
		})
	}
	t.Cleanup(kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line), kill
}

// dialChild connects once the gateway serves.
func dialChild(t *testing.T, addr string, v byte, id string, flags byte) (*peer, bool) {
	t.Helper()
	var props []byte
	if v == 5 {
		props = expiry(600)
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		nc, err := net.Dial("tcp", addr)
		if err == nil {
			p := &peer{t: t, nc: nc, r: bufio.NewReader(nc), v5: v == 5}
			t.Cleanup(func() { nc.Close() })
			nc.Write(connectPacket(v, id, flags, 60, props))
			if h, b, err := p.read(); err == nil && h>>4 == packets.Connack && b[1] == 0 {
				return p, b[0] == 1
			}
			nc.Close()
		}
		if time.Now().After(deadline) {
			t.Fatal("the gateway does not serve: ", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// A gateway is killed while it delivers, and while its session's client is
// away. Everything it had acknowledged reaches the session in order; what comes
// twice says so.
func TestKilledGateway(t *testing.T) {
	dir := t.TempDir()
	const rounds = 3
	var acked [rounds]int
	subs := []*roamer{{t: t, id: "s4", v: 4, next: map[string]int{}}, {t: t, id: "s5", v: 5, next: map[string]int{}}}
	// They come back when all is published, and the gateway is killed while they
	// drain.
	var away []*roamer
	for i := range 6 {
		away = append(away, &roamer{t: t, id: fmt.Sprint("away", i), v: byte(4 + i%2), next: map[string]int{}})
	}
	receive := func(s *roamer, p *peer, last string, limit int) {
		for {
			h, b, err := p.read()
			if err != nil {
				return
			}
			if h>>4 != packets.Publish {
				continue
			}
			d := p.parse(h, b)
			s.take(d)
			p.nc.Write([]byte{packets.Puback << 4, 2, byte(d.pid >> 8), byte(d.pid)})
			if d.topic == last {
				return
			}
			if limit--; limit == 0 {
				return
			}
		}
	}
	for round := range rounds {
		addr, kill := child(t, dir)
		var readers sync.WaitGroup
		for i, s := range subs {
			if round == 1 && i == 0 {
				continue // away this time
			}
			p, present := dialChild(t, addr, s.v, s.id, 0)
			if present != (round > 0) {
				t.Fatal("session present:", present)
			}
			if round == 0 {
				p.subscribe("t/#")
			}
			readers.Go(func() { receive(s, p, "", -1) })
		}
		for _, s := range away {
			if round == 0 {
				p, _ := dialChild(t, addr, s.v, s.id, 0)
				p.subscribe("t/#")
				p.nc.Close()
			}
		}
		pub, _ := dialChild(t, addr, 4, "pub", 2)
		readers.Go(func() {
			for i := range 10_000 {
				if _, err := pub.nc.Write(pub.publishPacket(fmt.Sprint("t/", round), 1, uint16(i+1), fmt.Sprint(i))); err != nil {
					return
				}
			}
		})
		for acked[round] < 2000 {
			if _, _, err := pub.read(); err != nil {
				t.Fatal(err)
			}
			acked[round]++
		}
		kill()
		for { // what had been answered before
			if _, _, err := pub.read(); err != nil {
				break
			}
			acked[round]++
		}
		readers.Wait()
	}
	subs = append(subs, away...)
	for round := range 2 {
		addr, kill := child(t, dir)
		var readers sync.WaitGroup
		for i, s := range away {
			p, present := dialChild(t, addr, s.v, s.id, 0)
			if !present {
				t.Fatal("no session")
			}
			readers.Go(func() { receive(s, p, "", 300+400*i+900*round) })
		}
		readers.Wait()
		kill()
	}
	addr, _ := child(t, dir)
	pub, _ := dialChild(t, addr, 4, "pub", 2)
	pub.publish("t/last", 1, 1, "0")
	pub.puback()
	for _, s := range subs {
		p, present := dialChild(t, addr, s.v, s.id, 0)
		if !present {
			t.Fatal("no session")
		}
		receive(s, p, "t/last", -1)
		for round, n := range acked {
			if got := s.next[fmt.Sprint("t/", round)]; got < n {
				t.Errorf("%s has %d of %d acknowledged in round %d", s.id, got, n, round)
			}
		}
		if s.next["t/last"] != 1 {
			t.Error("the last one is missing")
		}
		t.Log(s.id, acked, "messages,", s.dups, "duplicates")
	}
}
