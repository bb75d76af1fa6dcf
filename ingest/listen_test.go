package ingest

import (
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func hasIPv6(t *testing.T) bool {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		return false
	}
	l.Close()
	return true
}

func TestListenOnBothLoopbacks(t *testing.T) {
	defer goleak.VerifyNone(t)
	l, err := Listen("localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	hosts := []string{"127.0.0.1"}
	if hasIPv6(t) {
		hosts = append(hosts, "::1")
	}
	for _, h := range hosts {
		c, err := net.DialTimeout("tcp", net.JoinHostPort(h, port), 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		got, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer got.Close()
		if remote, _, _ := net.SplitHostPort(got.RemoteAddr().String()); remote != h {
			t.Errorf("accepted from %s, want %s", remote, h)
		}
	}
	ended := make(chan error)
	go func() {
		_, err := l.Accept()
		ended <- err
	}()
	l.Close()
	if <-ended == nil {
		t.Error("accepted after Close")
	}
	for _, h := range hosts {
		if c, err := net.Dial("tcp", net.JoinHostPort(h, port)); err == nil {
			c.Close()
			t.Errorf("%s is still open", h)
		}
	}
	again, err := Listen("localhost:" + port)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil { // never accepted from
		t.Error(err)
	}
}
