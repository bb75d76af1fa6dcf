package eventlog

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/test/fault"
)

// The crash tests start this test binary again as a publisher that writes a
// line to its standard output for each acknowledged event; what it has written
// outlives it.
const childDir = "WEIR_TEST_CHILD_DIR"

const childClients = 20

// childMain publishes until it is killed. It reports false in a process that is
// not a child.
func childMain() bool {
	dir := os.Getenv(childDir)
	if dir == "" {
		return false
	}
	l, err := Open(context.Background(), Options{Dir: dir, Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(1)
	}
	go l.Run(context.Background())
	fmt.Println("open")
	run := os.Getenv("WEIR_TEST_CHILD_RUN")
	for c := range childClients {
		go func() {
			r := &childClient{id: fmt.Sprintf("%s-%d", run, c), slots: make(chan struct{}, 20)}
			for i := 1; ; i++ {
				r.slots <- struct{}{}
				e := ev("load/"+r.id, i)
				e.ClientID, e.Payload = r.id, []byte(strconv.Itoa(i))
				if err := l.Append(context.Background(), e, r, uint64(i)); err != nil {
					return
				}
			}
		}()
	}
	select {}
}

type childClient struct {
	id    string
	slots chan struct{}
	out   []byte
}

func (c *childClient) Appended(token uint64, e *event.Event, err error) {
	<-c.slots
	if err == nil {
		c.out = fmt.Appendf(c.out, "acked %s %d %d\n", c.id, token, e.Seq)
	}
}

func (c *childClient) Flush() {
	os.Stdout.Write(c.out)
	c.out = c.out[:0]
}

// crash runs a child over dir, lets it publish for a while after it has opened
// the log, or, with busy, after its first acknowledgement; then it calls cut,
// kills the child and returns what it had acknowledged: sequence by "client n".
func crash(t *testing.T, dir, run string, busy bool, after time.Duration, cut func()) map[string]uint64 {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childDir+"="+dir, "WEIR_TEST_CHILD_RUN="+run)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	acked := map[string]uint64{}
	opened := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			f := strings.Fields(s.Text())
			if len(f) == 1 && !busy || len(f) == 4 && busy && len(acked) == 0 {
				close(opened)
			}
			if len(f) == 4 {
				seq, _ := strconv.ParseUint(f[3], 10, 64)
				acked[f[1]+" "+f[2]] = seq
			}
		}
	})
	select {
	case <-opened:
	case <-time.After(30 * time.Second):
		cmd.Process.Kill()
		cmd.Wait()
		t.Fatalf("the child does not get on: %s", stderr.String())
	}
	time.Sleep(after)
	if cut != nil {
		cut()
		time.Sleep(50 * time.Millisecond) // what is acknowledged now would be a lie
	}
	cmd.Process.Kill()
	wg.Wait()
	cmd.Wait()
	return acked
}

// audit opens the log and checks that it holds everything in acked under its
// sequence, and each client's events in order and without holes.
func audit(t *testing.T, dir string, acked map[string]uint64) {
	t.Helper()
	l, stop := open(t, Options{Dir: dir, Logger: discard()})
	defer stop()
	f, err := l.Follow(FollowOptions{ToEnd: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	stored := map[string]uint64{}
	next := map[string]int{}
	pos := uint64(0)
	for {
		b, _, err := f.Next(t.Context(), 1000)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range b {
			if e.Seq != pos+1 {
				t.Fatalf("sequence %d follows %d", e.Seq, pos)
			}
			pos = e.Seq
			n, err := strconv.Atoi(string(e.Payload))
			if err != nil {
				t.Fatal(err)
			}
			if next[e.ClientID]++; n != next[e.ClientID] {
				t.Fatalf("client %s: %d comes where %d should", e.ClientID, n, next[e.ClientID])
			}
			stored[e.ClientID+" "+string(e.Payload)] = e.Seq
		}
	}
	lost := 0
	for k, seq := range acked {
		if stored[k] != seq {
			lost++
			if lost < 5 {
				t.Errorf("%q was acknowledged as %d, the log has it as %d", k, seq, stored[k])
			}
		}
	}
	if lost > 0 {
		t.Errorf("%d of %d acknowledged events are lost", lost, len(acked))
	}
	t.Logf("%d acknowledged, %d stored", len(acked), len(stored))
}

func TestKillUnderLoadLosesNothing(t *testing.T) {
	dir := t.TempDir()
	all := map[string]uint64{}
	for run := range 5 {
		wait := time.Duration(rand.IntN(500)) * time.Millisecond
		acked := crash(t, dir, fmt.Sprint("r", run), true, wait, nil)
		for k, v := range acked {
			all[k] = v
		}
		audit(t, dir, all)
	}
}

func TestPowerCutLosesNothing(t *testing.T) {
	disk := fault.NewLoopFS(t, 512<<20)
	dir := disk.Dir + "/log"
	all := map[string]uint64{}
	for run := range 4 {
		wait := time.Duration(rand.IntN(600)) * time.Millisecond
		if run == 0 {
			wait = 20 * time.Millisecond // right after the first start
		}
		acked := crash(t, dir, fmt.Sprint("r", run), run > 0, wait, disk.PowerCut)
		disk.Remount()
		for k, v := range acked {
			all[k] = v
		}
		audit(t, dir, all)
	}
	if len(all) == 0 {
		t.Error("nothing was acknowledged at all")
	}
}

func TestFullDiskRefusesAndRecoversByItself(t *testing.T) {
	disk := fault.NewLoopFS(t, 256<<20)
	l := start(t, Options{Dir: disk.Dir + "/log", Logger: discard()})
	publish := func() (time.Duration, error) {
		began := time.Now()
		e := ev("a", 0)
		e.Payload = make([]byte, 4096)
		err := l.Publish(t.Context(), e)
		return time.Since(began), err
	}
	acked := uint64(0)
	for range 200 {
		if _, err := publish(); err != nil {
			t.Fatal(err)
		}
		acked++
	}
	for _, leave := range []int64{1 << 20, 0} {
		disk.Fill(leave)
		refused := 0
		for end := time.Now().Add(3 * time.Second); time.Now().Before(end) || refused == 0; {
			d, err := publish()
			if d > 3*time.Second {
				t.Fatalf("told after %v: %v", d, err)
			}
			if err != nil {
				refused++
			} else {
				acked++
			}
			time.Sleep(20 * time.Millisecond)
		}
		if l.Ready() == nil {
			t.Error("ready with a full disk")
		}
		disk.Free()
		freed := time.Now()
		for {
			_, err := publish()
			if err == nil {
				acked++
				break
			}
			if time.Since(freed) > 10*time.Second {
				t.Fatalf("with space again for %v: %v", time.Since(freed), err)
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Logf("%d refused; accepting %v after space was back", refused, time.Since(freed))
	}
	if c := l.Committed(0); c < acked {
		t.Errorf("committed %d, acknowledged %d", c, acked)
	}
	f, err := l.Follow(FollowOptions{ToEnd: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := uint64(0)
	for {
		b, _, err := f.Next(t.Context(), 100)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		n += uint64(len(b))
	}
	if n < acked {
		t.Errorf("%d acknowledged, %d in the log", acked, n)
	}
}
