// Package natstest starts NATS servers for tests, as an operator would run them
// for several Weir processes. It has no part in a message's way.
package natstest

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Server is one NATS server with JetStream, which syncs before it acknowledges.
type Server struct {
	t    testing.TB
	o    server.Options
	s    *server.Server
	addr string
}

// Start runs a server until the test ends.
func Start(t testing.TB) *Server {
	t.Helper()
	n := &Server{t: t, o: options("n0", t.TempDir())}
	n.Begin()
	t.Cleanup(func() { n.Stop() })
	return n
}

func options(name, dir string) server.Options {
	return server.Options{
		ServerName: name, Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: dir, SyncAlways: true, MaxPayload: 2 << 20,
	}
}

// Begin starts the server again after Stop, on the same port and folder.
func (n *Server) Begin() {
	n.t.Helper()
	o := n.o
	s, err := server.NewServer(&o)
	if err != nil {
		n.t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		n.t.Fatal("the NATS server is not ready")
	}
	n.s = s
	n.o.Port = s.Addr().(*net.TCPAddr).Port
	n.addr = s.ClientURL()
}

// Stop ends the server; it may be called twice.
func (n *Server) Stop() {
	if n.s != nil {
		n.s.Shutdown()
		n.s.WaitForShutdown()
		n.s = nil
	}
}

// URL is what clients connect to.
func (n *Server) URL() string { return n.addr }

// Cluster is a group of servers that keep three replicas of a stream.
type Cluster []*Server

// StartCluster runs three servers as one cluster until the test ends.
func StartCluster(t testing.TB) Cluster {
	t.Helper()
	const size = 3
	var ports [size]int
	var routes [size]string
	for i := range size {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ports[i] = l.Addr().(*net.TCPAddr).Port
		routes[i] = "nats://" + l.Addr().String()
		l.Close()
	}
	var all Cluster
	for i := range size {
		n := &Server{t: t, o: options("n"+strconv.Itoa(i), t.TempDir())}
		n.o.Cluster = server.ClusterOpts{Name: "c", Host: "127.0.0.1", Port: ports[i]}
		for k, r := range routes {
			if k != i {
				u, err := url.Parse(r)
				if err != nil {
					t.Fatal(err)
				}
				n.o.Routes = append(n.o.Routes, u)
			}
		}
		all = append(all, n)
		o := n.o
		s, err := server.NewServer(&o)
		if err != nil {
			t.Fatal(err)
		}
		s.Start()
		n.s = s
		t.Cleanup(n.Stop)
	}
	for end := time.Now().Add(40 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		ready := 0
		for _, n := range all {
			if n.s.ReadyForConnections(time.Millisecond) && n.s.JetStreamIsCurrent() && len(n.s.JetStreamClusterPeers()) == size {
				ready++
			}
		}
		if ready > 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the NATS cluster does not form")
		}
	}
	for _, n := range all {
		n.addr = n.s.ClientURL()
		n.o.Port = n.s.Addr().(*net.TCPAddr).Port
	}
	return all
}

// URL lists all servers.
func (c Cluster) URL() string {
	var urls []string
	for _, n := range c {
		urls = append(urls, n.addr)
	}
	return strings.Join(urls, ",")
}

// String implements fmt.Stringer.
func (n *Server) String() string { return fmt.Sprint(n.o.ServerName, " ", n.addr) }
