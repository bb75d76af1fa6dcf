package eventlog

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weir-iot/weir/internal/topic"
)

// cluster starts n NATS servers with JetStream and returns their URLs.
func cluster(t *testing.T, n int) []*server.Server {
	t.Helper()
	var routes []string
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
		routes = append(routes, "nats://"+l.Addr().String())
		l.Close()
	}
	var all []*server.Server
	for i := range n {
		o := &server.Options{
			ServerName: "n" + strconv.Itoa(i), Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
			JetStream: true, StoreDir: t.TempDir(), SyncAlways: true,
		}
		if n > 1 {
			o.Cluster = server.ClusterOpts{Name: "c", Host: "127.0.0.1", Port: ports[i]}
			for k, r := range routes {
				if k != i {
					u, err := url.Parse(r)
					if err != nil {
						t.Fatal(err)
					}
					o.Routes = append(o.Routes, u)
				}
			}
		}
		s, err := server.NewServer(o)
		if err != nil {
			t.Fatal(err)
		}
		s.Start()
		t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
		all = append(all, s)
	}
	for _, s := range all {
		if !s.ReadyForConnections(20 * time.Second) {
			t.Fatal("a server is not ready")
		}
	}
	for end := time.Now().Add(30 * time.Second); n > 1; time.Sleep(50 * time.Millisecond) {
		ready := 0
		for _, s := range all {
			if s.JetStreamIsCurrent() && s.JetStreamClusterPeers() != nil && len(s.JetStreamClusterPeers()) == n {
				ready++
			}
		}
		if ready > 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the cluster does not form")
		}
	}
	return all
}

func urls(all []*server.Server) string {
	var u []string
	for _, s := range all {
		u = append(u, s.ClientURL())
	}
	return strings.Join(u, ",")
}

func TestTwoProcessesOnAnExternalServer(t *testing.T) {
	for _, servers := range []int{1, 3} {
		t.Run(fmt.Sprint(servers), func(t *testing.T) {
			all := cluster(t, servers)
			var logs []*Log
			for range 2 {
				logs = append(logs, start(t, Options{URL: urls(all), Logger: discard()}, smallRing))
			}
			const n = 300
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var wg sync.WaitGroup
			for k, l := range logs {
				wg.Go(func() {
					b := newBook(n)
					for i := range n {
						if err := l.Append(ctx, ev(fmt.Sprint("p/", k), i), b, uint64(i)); err != nil {
							t.Error(err)
							return
						}
						if i%20 == 0 {
							time.Sleep(time.Millisecond)
						}
					}
					b.wait(t)
					for i, err := range b.errs {
						if err != nil {
							t.Errorf("append %d: %v", i, err)
							return
						}
					}
				})
				for _, filters := range [][]topic.Filter{nil, {"p/0"}} {
					wg.Go(func() {
						f, err := l.Follow(FollowOptions{Filters: filters})
						if err != nil {
							t.Error(err)
							return
						}
						defer f.Close()
						want, pos, next := 2*n, uint64(0), map[topic.Name]int{}
						if filters != nil {
							want = n
						}
						for got := 0; got < want; {
							b, _, err := f.Next(ctx, 50)
							if err != nil {
								t.Errorf("after %d events: %v", got, err)
								return
							}
							for _, e := range b {
								if e.Seq <= pos || filters == nil && e.Seq != pos+1 || string(e.Payload) != fmt.Sprintf(`{"n":%d}`, next[e.Topic]) {
									t.Errorf("%d after %d: %s of %s, want %d", e.Seq, pos, e.Payload, e.Topic, next[e.Topic])
									return
								}
								pos = e.Seq
								next[e.Topic]++
								got++
							}
						}
					})
				}
			}
			wg.Wait()
			f, err := logs[0].Follow(FollowOptions{Since: time.Now().Add(time.Hour)})
			if err != nil || f.Position() != 2*n {
				t.Fatalf("since the future: %v, %v", f, err)
			}
			f.Close()
			nc, err := nats.Connect(urls(all))
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			js, err := jetstream.New(nc)
			if err != nil {
				t.Fatal(err)
			}
			st, err := js.Stream(ctx, "EVENTS-0")
			if err != nil || st.CachedInfo().Config.Replicas != servers {
				t.Fatalf("%+v, %v", st, err)
			}
			if servers == 3 {
				// One server of three goes; publishing goes on.
				all[0].Shutdown()
				all[0].WaitForShutdown()
				began := time.Now()
				for _, l := range logs {
					for {
						err := l.Publish(ctx, ev("after", 0))
						if err == nil {
							break
						}
						if time.Since(began) > 20*time.Second {
							t.Fatal("with a server lost: ", err)
						}
						time.Sleep(50 * time.Millisecond)
					}
				}
				t.Logf("accepting %v after a server was lost", time.Since(began))
			}
		})
	}
}
