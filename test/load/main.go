// Command load measures a running Weir from outside: it publishes over MQTT
// 3.1.1 at QoS 1 as fast as it is acknowledged, and reads the server's CPU time
// from /proc. The figures of docs/figures.md are made with it.
//
//	go run ./test/load ingest     # PUBACKs a second, CPU a message
//	go run ./test/load ingest     -publishers 1 -window 1
//	go run ./test/load pipeline   -results out/results      # with a rule
//	go run ./test/load latency    -rate 2000
//	go run ./test/load return     -sessions 1000 -messages 1000   # drain after a mass return
//	go run ./test/load fanout     # one message to 200 subscribers, CPU a delivery
//	go run ./test/load fanin      -rate 30000
//	go run ./test/load slow       -rate 1000 -for 20s
//	go run ./test/load shadow     -rate 5000 -things 1000
//	go run ./test/load enrol      -pid $PID -addr localhost:8883 -rate 100 -ca $WEIR_CA_FILE   # in the environment weir env prints
//	go run ./test/load handshakes -publishers 8 -rate 0
//	go run ./test/load idle       -clients 5000      # memory of a TLS connection
//	go run ./test/load storm      -clients 10000     # all reconnect at once
//
// Each but enrol starts a Weir of its own with -weir bin/weir (-durability os or
// disk), or measures the one whose process is -pid: -addr is its plain port, and
// where TLS is measured -tls, -ca, -cert and -key say how to get in. What idle
// connections are made of it asks the server for with -api and -token.
//
// CPU a message is the figure to compare: generator and server share the
// machine, so a rate is what the two manage together.
package main

import (
	"errors"
	"flag"
	"fmt"
	"log"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

type settings struct {
	addr       string
	pid        int
	publishers int
	window     int
	duration   time.Duration
	warmup     time.Duration
	results    string
	share      int
	messages   int
	maxLag     int64
	rate       int
	qos        int
	topic      string
	distinct   bool
	sessions   int
	clumped    bool
	ca         string
	cert, key  string
	things     int
	serverKeys bool

	weir       string // binary to start; "": a server is there
	durability string
	tlsAddr    string
	api, token string
	profile    string

	clients     int
	subscribers int
	patience    time.Duration
}

var modes = map[string]func(settings) error{
	"ingest": ingest, "pipeline": pipeline, "latency": latency, "return": massReturn, "handshakes": handshakes, "shadow": shadow,
	"fanout": fanout, "fanin": fanin, "slow": slow, "idle": idle, "storm": storm, "enrol": enrol,
}

func main() {
	log.SetFlags(0)
	if len(os.Args) < 2 {
		log.Fatal("load " + strings.Join(slices.Sorted(maps.Keys(modes)), " | ") + ", then flags; see -h of each")
	}
	run, ok := modes[os.Args[1]]
	if !ok {
		log.Fatalf("load: there is no measurement %q; there are %s", os.Args[1], strings.Join(slices.Sorted(maps.Keys(modes)), ", "))
	}
	var s settings
	f := flag.NewFlagSet("load "+os.Args[1], flag.ExitOnError)
	f.StringVar(&s.addr, "addr", "127.0.0.1:1883", "plain MQTT `address` of the server; enrol: its TLS address")
	f.StringVar(&s.tlsAddr, "tls", "127.0.0.1:8883", "`address` of its TLS port")
	f.StringVar(&s.weir, "weir", "", "Weir `binary` to start for the measurement; else a server is there")
	f.StringVar(&s.durability, "durability", "os", "of the Weir that is started")
	f.StringVar(&s.api, "api", "http://127.0.0.1:8080", "control API of the server")
	f.StringVar(&s.token, "token", "", "`file` of its admin token")
	f.StringVar(&s.profile, "profile", "", "`file` for a CPU profile of the server while it is measured (debug.pprof, -api, -token)")
	f.IntVar(&s.clients, "clients", 5000, "idle, storm: TLS connections")
	f.IntVar(&s.subscribers, "subscribers", 200, "fanout: subscribers")
	f.DurationVar(&s.patience, "patience", 30*time.Second, "storm: how long a client waits for its CONNACK before it tries again")
	f.IntVar(&s.pid, "pid", 0, "`process` whose CPU time is read; 0: none")
	f.IntVar(&s.publishers, "publishers", 50, "connections that publish")
	f.IntVar(&s.window, "window", 32, "unacknowledged messages a publisher")
	f.DurationVar(&s.duration, "for", 6*time.Second, "how long to count")
	f.DurationVar(&s.warmup, "warmup", 2*time.Second, "how long to run before counting")
	f.StringVar(&s.results, "results", "out/results", "pipeline: `topic` a rule publishes its results on")
	f.IntVar(&s.share, "share", 10, "pipeline: one message in this many makes a result")
	messages := 200_000
	if os.Args[1] == "return" {
		messages = 1000
	}
	f.IntVar(&s.messages, "messages", messages, "pipeline: how many to publish; return: missed by each session")
	f.Int64Var(&s.maxLag, "max-lag", 20_000, "pipeline: publishers wait while results are this many messages behind")
	f.IntVar(&s.rate, "rate", 2000, "latency, shadow, fanin, slow: messages a second; enrol: devices a second; handshakes: as many a second, 0 as fast as it goes")
	f.IntVar(&s.things, "things", 1000, "shadow: how many shadows are updated")
	f.IntVar(&s.qos, "qos", 1, "latency: QoS of the subscriber")
	f.StringVar(&s.topic, "topic", "latency/1", "latency: `topic` to publish on; results are awaited on latency/#, so a rule may stand between")
	f.BoolVar(&s.distinct, "distinct", false, "ingest: a new topic for each message")
	f.IntVar(&s.sessions, "sessions", 1000, "return: persistent sessions")
	f.BoolVar(&s.clumped, "clumped", false, "return: a session's messages stand together on the log")
	f.StringVar(&s.ca, "ca", "", "TLS: `file` of the server's authority")
	f.StringVar(&s.cert, "cert", "", "TLS: `file` of the client certificate")
	f.StringVar(&s.key, "key", "", "TLS: `file` of its key")
	f.BoolVar(&s.serverKeys, "server-keys", false, "enrol: devices have their keys made by the server")
	_ = f.Parse(os.Args[2:])
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt)
	if s.weir == "" { // else it ends with the server
		go func() { <-stop; os.Exit(130) }()
	}
	if err := measure(s, run); err != nil {
		log.Fatal("load: ", err)
	}
}

// measure runs a measurement, with a Weir of its own where one is asked for.
func measure(s settings, run func(settings) error) error {
	if s.weir != "" {
		stop, err := s.own()
		if err != nil {
			return err
		}
		defer stop()
	}
	profiled := make(chan error, 1)
	if s.profile != "" {
		go func() { profiled <- s.writeProfile() }()
	} else {
		profiled <- nil
	}
	stolen, all := machineTime()
	err := errors.Join(run(s), <-profiled)
	if stolenNow, allNow := machineTime(); allNow > all {
		fmt.Printf("the hypervisor kept %.1f %% of the machine's CPU time to itself\n", 100*float64(stolenNow-stolen)/float64(allNow-all))
	}
	return err
}

// ingest publishes without a subscriber.
func ingest(s settings) error {
	var counted atomic.Int64
	var counting atomic.Bool
	var lat histogram
	done := make(chan struct{})
	ended := make(chan error, s.publishers)
	for i := range s.publishers {
		p, err := dial(s.addr, fmt.Sprintf("load-%d", i))
		if err != nil {
			return err
		}
		next := func(n int) (string, []byte) { return telemetry(i, n, s.publishers, s.share) }
		if s.distinct {
			next = func(n int) (string, []byte) { return fmt.Sprintf("distinct/%d/%d", i, n), []byte("1") }
		}
		go func() {
			ended <- p.publish(s.window, false, done, next,
				func(took time.Duration) {
					if counting.Load() {
						counted.Add(1)
						lat.add(took)
					}
				})
		}()
	}
	time.Sleep(s.warmup)
	cpu := cpuTime(s.pid)
	began := time.Now()
	counting.Store(true)
	time.Sleep(s.duration)
	counting.Store(false)
	took, used := time.Since(began), cpuTime(s.pid)-cpu
	close(done)
	for range s.publishers {
		if err := <-ended; err != nil {
			return err
		}
	}
	n := counted.Load()
	fmt.Printf("%d publishers × %d in flight: %.0f PUBACK/s, p50 %v, p99 %v", s.publishers, s.window, float64(n)/took.Seconds(), lat.quantile(0.50), lat.quantile(0.99))
	report(s.pid, used, n)
	return nil
}

// pipeline publishes through a rule whose results come back.
func pipeline(s settings) error {
	var results, acked atomic.Int64
	sub, err := dial(s.addr, "load-results")
	if err != nil {
		return err
	}
	if err := sub.subscribe(s.results, 1); err != nil {
		return err
	}
	go sub.receive(func([]byte) { results.Add(1) })
	quota := make(chan struct{})
	ended := make(chan error, s.publishers)
	var sent atomic.Int64
	cpu := cpuTime(s.pid)
	began := time.Now()
	for i := range s.publishers {
		p, err := dial(s.addr, fmt.Sprintf("load-%d", i))
		if err != nil {
			return err
		}
		go func() {
			ended <- p.publish(s.window, false, quota, func(n int) (string, []byte) {
				at := sent.Add(1)
				if at > int64(s.messages) {
					return "", nil
				}
				for at-results.Load()*int64(s.share) > s.maxLag {
					time.Sleep(time.Millisecond)
				}
				return telemetry(i, n, s.publishers, s.share)
			}, func(time.Duration) { acked.Add(1) })
		}()
	}
	for range s.publishers {
		if err := <-ended; err != nil {
			return err
		}
	}
	// Every publisher counts by itself, so the share is exact only to one each.
	want := acked.Load()/int64(s.share) - int64(s.publishers)
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end) && results.Load() < want; {
		time.Sleep(time.Millisecond)
	}
	took, used := time.Since(began), cpuTime(s.pid)-cpu
	time.Sleep(200 * time.Millisecond)
	fmt.Printf("%d messages, %d results: %.0f messages/s", acked.Load(), results.Load(), float64(acked.Load())/took.Seconds())
	report(s.pid, used, acked.Load())
	if results.Load() < want {
		return fmt.Errorf("results are missing: at least %d were to come", want)
	}
	return nil
}

// latency publishes at a steady rate and measures from the write to the receipt
// by a subscriber.
func latency(s settings) error {
	var lat histogram
	var counting atomic.Bool
	var got atomic.Int64
	sub, err := dial(s.addr, "load-subscriber")
	if err != nil {
		return err
	}
	if err := sub.subscribe("latency/#", byte(s.qos)); err != nil {
		return err
	}
	go sub.receive(func(payload []byte) {
		if counting.Load() {
			lat.add(time.Duration(time.Now().UnixNano() - stamp(payload)))
			got.Add(1)
		}
	})
	p, err := dial(s.addr, "load-publisher")
	if err != nil {
		return err
	}
	began := time.Now()
	done := make(chan struct{})
	time.AfterFunc(s.warmup, func() { counting.Store(true) })
	time.AfterFunc(s.warmup+s.duration, func() { close(done) })
	var cpu time.Duration
	time.AfterFunc(s.warmup, func() { cpu = cpuTime(s.pid) })
	err = p.publish(100, true, done, func(n int) (string, []byte) {
		sleepUntil(began.Add(time.Duration(n) * time.Second / time.Duration(s.rate)))
		return s.topic, stamped()
	}, func(time.Duration) {})
	if err != nil {
		return err
	}
	fmt.Printf("%.0f/s, %d/s asked: p50 %v, p99 %v", float64(got.Load())/s.duration.Seconds(), s.rate, lat.quantile(0.50), lat.quantile(0.99))
	report(s.pid, cpuTime(s.pid)-cpu, got.Load())
	return nil
}

func report(pid int, used time.Duration, n int64) {
	if pid > 0 && n > 0 {
		fmt.Printf(", %.1f µs server CPU a message, %d MiB resident", float64(used.Microseconds())/float64(n), resident(pid)>>20)
	}
	fmt.Println()
}
