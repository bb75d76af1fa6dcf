package http

import (
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/weir-iot/weir/actions"
)

var discard = stdlog.New(io.Discard, "", 0)

func TestPermit(t *testing.T) {
	const public, house, never = "public", "private", "never"
	for addr, want := range map[string]string{
		"93.184.216.34": public, "2606:2800:220:1:248:1893:25c8:1946": public, "8.8.8.8": public, "64:ff9b::808:808": public,
		"127.0.0.1": house, "127.255.255.254": house, "10.0.0.1": house, "172.16.0.1": house, "172.31.255.255": house, "192.168.1.1": house,
		"::1": house, "fd00::1": house, "fc00::1": house, "::ffff:127.0.0.1": house, "::ffff:10.0.0.1": house, "64:ff9b::7f00:1": house, "2002:7f00:1::": house,
		"172.32.0.1": public, "11.0.0.1": public,
		"0.0.0.0": never, "0.1.2.3": never, "::": never, "::ffff:0.0.0.0": never, "::7f00:1": never,
		"169.254.169.254": never, "::ffff:169.254.169.254": never, "64:ff9b::a9fe:a9fe": never, "2002:a9fe:a9fe::": never, "fe80::1": never, "fe80::1%lo": never, "fec0::1": never,
		"100.64.0.1": never, "100.127.255.255": never, "192.0.0.1": never, "192.0.2.1": never, "198.18.0.1": never, "224.0.0.1": never, "ff02::1": never,
		"240.0.0.1": never, "255.255.255.255": never, "2001::1": never, "2001:db8::1": never, "64:ff9b:1::1": never,
	} {
		a := netip.MustParseAddr(addr)
		for _, c := range []struct {
			policy Policy
			plain  bool
			ok     bool
		}{
			{Policy{}, false, want == public},
			{Policy{}, true, false},
			{Policy{AllowPrivate: true}, false, want != never},
			{Policy{AllowPrivate: true}, true, want == house},
			{Policy{AllowNetworks: []netip.Prefix{netip.PrefixFrom(a.Unmap().WithZone(""), a.Unmap().BitLen())}}, true, true},
		} {
			if err := c.policy.permit(a, c.plain); (err == nil) != c.ok {
				t.Errorf("%s with %+v, plain %v: %v", addr, c.policy, c.plain, err)
			}
		}
	}
}

// Every spelling of this machine ends at the dialler, before a connection is made.
func TestNoWayToLoopback(t *testing.T) {
	var reached atomic.Int32
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			reached.Add(1)
			c.Close()
		}
	}()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	closed := func(e *actions.Env) { e.AllowPrivate = false }
	for _, host := range []string{
		"127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "0", "0.0.0.0",
		"localhost", "LOCALHOST", "localhost.", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:0:0:1]",
	} {
		a, _, err := try(t, `{"url":"https://`+host+`:`+port+`/x"}`, closed)
		if err != nil {
			continue // refused when the rule was made
		}
		err = deliver(t, a, `{}`)
		if class := classOf(err); class != "permanent" && class != "unreachable" {
			t.Errorf("%s: %s, %v", host, class, err)
		}
		_ = a.Close(t.Context())
	}
	l.Close()
	<-done
	if n := reached.Load(); n > 0 {
		t.Errorf("%d connections came through", n)
	}
}

func TestBlockedIsPermanentAndSaysWhy(t *testing.T) {
	closed := func(e *actions.Env) { e.AllowPrivate = false }
	for _, host := range []string{"127.0.0.1", "169.254.169.254", "[::1]", "[::ffff:10.0.0.1]", "0.0.0.0"} {
		a, _, err := try(t, fmt.Sprintf(`{"url":"https://%s/"}`, host), closed)
		if err != nil {
			t.Fatal(err)
		}
		if err := deliver(t, a, `{}`); !actions.IsPermanent(err) {
			t.Errorf("%s: %v", host, err)
		}
		_ = a.Close(t.Context())
	}
}

func FuzzURL(f *testing.F) {
	for _, s := range []string{"", "a", "../..", "a/%2e%2e/b", "a?b", "#", "@evil.example", "//evil.example", "\\", "\r\n", "é", "%", "a:b@c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, v string) {
		// What a message puts in does not change where the request goes.
		base := "https://a.example/in/"
		u, err := parse(base + escapePath(v) + "?q=" + escapeQuery(v))
		if err != nil {
			return
		}
		b, _ := parse(base)
		if !below(u, b) || u.Host != "a.example" || u.Query().Get("q") != v {
			t.Fatalf("%q: %s", v, u)
		}
	})
}
