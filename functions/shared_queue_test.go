package functions_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weir-iot/weir/functions"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/kv"
	"github.com/weir-iot/weir/test/natstest"
)

// shared are the options of one of several processes: it never gives an event up.
func shared(o *functions.Options) {
	overHTTP(o)
	o.Lease = 3 * time.Second
	o.Waits = slices.Repeat([]time.Duration{time.Millisecond}, 1000)
}

// queueProcess is argv[0] of a process that is runQueue.
const queueProcess = "weir-queue"

// runQueue is a process of its own on the NATS server at url: it accepts n events
// for f, says so, and runs functions until its standard input ends.
func runQueue(url, dir string, n int) error {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	log, err := eventlog.Open(ctx, eventlog.Options{URL: url, Durability: eventlog.OS})
	if err != nil {
		return err
	}
	defer log.Close()
	kept, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = log.Run(kept) })
	defer running.Wait()
	defer cancel()
	b, err := kv.Open(ctx, log, kv.Config{Name: "functions"})
	if err != nil {
		return err
	}
	o := functions.Options{Bucket: b, Dir: dir, AccountID: "123456789012", Region: "us-east-1", Logger: slog.New(slog.DiscardHandler)}
	shared(&o)
	s, err := functions.Open(ctx, o)
	if err != nil {
		return err
	}
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	for i := range n {
		if _, err := s.Enqueue(ctx, &functions.Request{Function: "f", ID: fmt.Sprintf("id-%d", i), Payload: fmt.Appendf(nil, `{"n":%d}`, i)}); err != nil {
			return err
		}
	}
	fmt.Println("accepted")
	_, _ = io.Copy(io.Discard, os.Stdin)
	stop()
	return <-ran
}

type child struct {
	*exec.Cmd
	in io.Closer
}

func startChild(t *testing.T, url string, n int) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0], url, t.TempDir(), fmt.Sprint(n))
	cmd.Args[0] = queueProcess
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "accepted\n" {
		t.Fatalf("%q, %v", line, err)
	}
	return &child{cmd, in}
}

// openOn is openAt on a NATS server.
func openOn(t *testing.T, url string) *functions.Service {
	t.Helper()
	log, err := eventlog.Open(t.Context(), eventlog.Options{URL: url, Durability: eventlog.OS})
	if err != nil {
		t.Fatal(err)
	}
	s, _ := openWith(t, log, filepath.Join(t.TempDir(), "functions"), shared)
	return s
}

const manyShared = 50

// counted checks that each event came, all times with its own id, and returns how
// often in all.
func counted(t *testing.T, srv *recorder) (all int) {
	t.Helper()
	for i := range manyShared {
		ids := srv.ids(fmt.Sprintf(`{"n":%d}`, i))
		if len(ids) == 0 {
			t.Errorf("event %d is lost", i)
		}
		for _, id := range ids {
			if id != fmt.Sprintf("id-%d", i) {
				t.Errorf("event %d came as %s", i, id)
			}
		}
		all += len(ids)
	}
	return all
}

// Two processes share the queue: each event is run by one of them, once.
func TestQueueIsSharedWithoutRepeats(t *testing.T) {
	url := natstest.Start(t).URL()
	s := openOn(t, url)
	srv := record(t)
	deploy(t, s, "f", functions.Config{Runtime: "http", URL: srv.URL, Concurrency: 100}, nil)
	c := startChild(t, url, manyShared)
	eventually(t, "all events have come", func() bool { return s.Queued() == 0 })
	c.in.Close()
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
	if all := counted(t, srv); all != manyShared {
		t.Errorf("%d events came %d times", manyShared, all)
	}
}

// Where a process is killed, another runs what it had accepted. Where it only
// stood still, it changes nothing of what others did meanwhile.
func TestQueueIsTakenOver(t *testing.T) {
	for _, killed := range []bool{true, false} {
		t.Run(map[bool]string{true: "Killed", false: "Stopped"}[killed], func(t *testing.T) {
			url := natstest.Start(t).URL()
			s := openOn(t, url)
			srv := record(t)
			deploy(t, s, "f", functions.Config{Runtime: "http", URL: srv.URL, Concurrency: 100}, nil)
			held := make(chan struct{})
			srv.set(1<<20, held) // all are refused, later
			c := startChild(t, url, manyShared)
			eventually(t, "all are under way", func() bool { return srv.payloads() == manyShared })
			signal := syscall.SIGSTOP
			if killed {
				signal = syscall.SIGKILL
			}
			if err := c.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			srv.set(0, nil)
			eventually(t, "the other process has run all", func() bool { return s.Queued() == 0 })
			all := counted(t, srv)
			close(held) // what the first process asked for fails now
			if killed {
				return
			}
			if err := c.Process.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			c.in.Close()
			if err := c.Wait(); err != nil {
				t.Error(err)
			}
			if n := s.Queued(); n != 0 {
				t.Errorf("the former owner has put %d events back", n)
			}
			if again := counted(t, srv); again != all {
				t.Errorf("%d runs, %d after the former owner came back", all, again)
			}
		})
	}
}

func (r *recorder) set(fail int, block chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail, r.block = fail, block
}

func (r *recorder) payloads() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.seen)
}
