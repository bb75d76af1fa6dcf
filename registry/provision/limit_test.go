package provision

import (
	"context"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/registry"
)

// So many a second for each, whatever the others do; and what is counted is
// bounded.
func TestLimiter(t *testing.T) {
	now := time.Unix(1000, 0)
	l := limiter{perSecond: 2, now: func() time.Time { return now }}
	for i, want := range []bool{true, true, false, false} {
		if got := l.allow("a"); got != want {
			t.Errorf("%d: %v", i, got)
		}
	}
	if !l.allow("b") {
		t.Error("another one is refused")
	}
	now = now.Add(time.Second)
	if !l.allow("a") {
		t.Error("refused in the next second")
	}
	for i := range 2 * maxCounted {
		l.allow(strconv.Itoa(i))
	}
	if n := len(l.counts); n > maxCounted+1 {
		t.Errorf("%d are counted", n)
	}
	if l.allow("one more") {
		t.Error("beyond what is counted all share one count")
	}
}

// What is over the limit is refused, makes nothing and fills no log.
func TestThrottled(t *testing.T) {
	var clock atomic.Int64
	w, stop := begin(t, t.TempDir(), &clock)
	defer stop()
	told := 0
	publish := w.o.Publish
	w.o.Publish = func(ctx context.Context, e *event.Event) error { told++; return publish(ctx, e) }
	w.creations.perSecond = 3
	w.creations.now = func() time.Time { return time.Unix(1000, 0) }
	codes := map[any]int{}
	for range 10 {
		codes[w.ask(t, "$aws/certificates/create-from-csr/json", map[string]string{"certificateSigningRequest": w.csr})["errorCode"]]++
	}
	made, _, err := w.r.Certificates(true, registry.Page{})
	if err != nil || len(made) != 3 || told != 3 || codes[nil] != 3 || codes["Throttled"] != 7 {
		t.Errorf("%d made, %d told, answers %v, %v", len(made), told, codes, err)
	}
}
