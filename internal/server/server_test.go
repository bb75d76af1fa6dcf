package server

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/weir-iot/weir/internal/config"
)

func options(t *testing.T) Options {
	c := config.Default(true)
	c.DataDir, c.Durability = t.TempDir(), "os"
	for _, a := range []*string{&c.Listen.MQTT, &c.Listen.MQTTS, &c.Listen.HTTPS, &c.Listen.Mux, &c.Listen.API, &c.Listen.NATS} {
		*a = "127.0.0.1:0"
	}
	return Options{Config: c, Dev: true, Logger: slog.New(slog.DiscardHandler)}
}

// Each port that is taken is named by its key, and New leaves nothing open: the
// other ports and the folder can be used at once.
func TestTakenPortsAreNamed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	o := options(t)
	for key, addr := range map[string]*string{"listen.mqtt": &o.Config.Listen.MQTT, "listen.mqtts": &o.Config.Listen.MQTTS,
		"listen.https": &o.Config.Listen.HTTPS, "listen.mux": &o.Config.Listen.Mux, "listen.api": &o.Config.Listen.API, "listen.nats": &o.Config.Listen.NATS} {
		*addr = l.Addr().String()
		s, err := New(t.Context(), o)
		*addr = "127.0.0.1:0"
		var taken *PortError
		if err == nil {
			s.Close()
		}
		if !errors.As(err, &taken) || taken.Key != key || taken.Addr != l.Addr().String() {
			t.Errorf("%s: %v", key, err)
		}
	}
	s, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	var folder *FolderError
	if other, err := New(t.Context(), o); !errors.As(err, &folder) {
		t.Errorf("a second Weir on the folder: %v", err)
		if err == nil {
			other.Close()
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestARulesFolderThatIsNotThere(t *testing.T) {
	o := options(t)
	o.Config.RulesDir = filepath.Join(o.Config.DataDir, "none")
	if s, err := New(t.Context(), o); err == nil {
		s.Close()
		t.Error("accepted")
	}
}

// Secrets are for their owner alone.
func TestFileModes(t *testing.T) {
	o := options(t)
	s, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, name := range []string{"admin.token", "client.key", "log/nats-reader.creds"} {
		info, err := os.Stat(filepath.Join(o.Config.DataDir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	_ = filepath.WalkDir(filepath.Join(o.Config.DataDir, "ca"), func(path string, d os.DirEntry, err error) error {
		if info, e := d.Info(); e == nil && filepath.Ext(path) == ".key" && info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v", path, info.Mode())
		}
		return err
	})
}

// Nothing is ready, and nothing cut, before the gateway takes connections: who
// comes by the one port waits.
func TestReadyIsWhenTheGatewayServes(t *testing.T) {
	s, err := New(t.Context(), options(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	gateway, held := s.serving, make(chan struct{})
	s.serving = held
	ctx, end := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	health := func() int {
		res, err := http.Get(s.endpoints.API + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	<-gateway
	if code := health(); code != http.StatusServiceUnavailable {
		t.Error("healthy before the gateway serves:", code)
	}
	answer := make(chan error, 1)
	go func() { // as soon as it can be reached
		c, err := tls.Dial("tcp", s.mux.Addr().String(), &tls.Config{ServerName: "localhost", RootCAs: s.ca.Pool()})
		if err == nil {
			err = c.Close()
		}
		answer <- err
	}()
	select {
	case <-s.Ready():
		t.Error("ready before the gateway serves")
	case err := <-answer:
		t.Error("an answer before the gateway serves:", err)
	case <-time.After(100 * time.Millisecond):
	}
	close(held)
	select {
	case <-s.Ready():
	case <-time.After(time.Minute):
		t.Fatal("not ready")
	}
	if code := health(); code != http.StatusOK {
		t.Error("not healthy:", code)
	}
	if err := <-answer; err != nil {
		t.Error("cut:", err)
	}
	end()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
