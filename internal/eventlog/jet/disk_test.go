package jet

import (
	"fmt"
	"testing"
	"time"

	"github.com/weir-iot/weir/test/fault"
)

// Without the watch on free space the store itself meets the full disk: it
// answers no more, and only opening it again helps.
func TestStoreThatMetAFullDiskRecovers(t *testing.T) {
	disk := fault.NewLoopFS(t, 128<<20)
	r := newRig(t, Options{Dir: disk.Dir + "/log", Deadline: time.Second, MaxBytes: 1 << 30}, func(s *Store) { s.disk.reserve = 0 })
	<-r.ends
	body := string(make([]byte, 8000))
	acked := uint64(0)
	add := func() error {
		began := time.Now()
		const n = 40
		for i := range n {
			r.add(t, msg{subject: "t.x", bodies: []string{fmt.Sprint(i) + body}})
		}
		var failed error
		for range n {
			o := r.next(t)
			if o.r.Err != nil {
				failed = o.r.Err
			} else {
				acked = max(acked, o.r.Seq)
			}
		}
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("told after %v", d)
		}
		return failed
	}
	for range 20 {
		if err := add(); err != nil {
			t.Fatal(err)
		}
	}
	disk.Fill(2 << 20)
	var err error
	for range 1000 {
		if err = add(); err != nil {
			break
		}
	}
	if err == nil {
		t.Fatal("a full disk takes everything")
	}
	t.Log(err)
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		add()
	}
	disk.Free()
	freed := time.Now()
	for add() != nil {
		if time.Since(freed) > 10*time.Second {
			t.Fatal("the store does not accept although there is space")
		}
	}
	t.Logf("accepting %v after space was back", time.Since(freed))
	if got := r.stored(t); uint64(len(got)) < acked {
		t.Fatalf("%d stored, acknowledged up to %d", len(got), acked)
	}
}
