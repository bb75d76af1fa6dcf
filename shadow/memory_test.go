package shadow

import (
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/weir-iot/weir/internal/event"
)

// What 100,000 shadows cost in memory: the store keeps where the newest version
// of each document is, and the topics of its requests and answers. The log's ring
// and the store's caches, which are bounded, are filled with other events before
// each look. With WEIR_SHADOW_MEMORY=1; it takes about four minutes, most of them
// until the store lets go of what it knows of blocks nobody reads.
func TestMemory(t *testing.T) {
	if os.Getenv("WEIR_SHADOW_MEMORY") == "" {
		t.Skip("takes minutes: set WEIR_SHADOW_MEMORY=1")
	}
	const things, most = 100_000, 1024
	x := newBench(t, "")
	o := x.options()
	o.Cache, o.Limits.InFlight = 1, 0
	x.serve(o)
	acc := x.reader("$aws/things/+/shadow/update/accepted", "$aws/things/+/shadow/update/rejected")
	heap := func() int64 {
		for range 20_000 {
			if err := x.log.Append(t.Context(), &event.Event{Topic: "fill", Payload: []byte("x")}, nil, 0); err != nil {
				t.Fatal(err)
			}
		}
		x.publish("fill", "fill", "x")
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	updateAll(x, acc, things, benchUpdate)
	each, began := int64(0), time.Now()
	for pause := time.Duration(0); ; pause = 15 * time.Second {
		time.Sleep(pause)
		each = (heap() - before) / things
		t.Logf("%d bytes a shadow %v after the last update", each, time.Since(began).Round(time.Second))
		if time.Since(began) > 3*time.Minute {
			break
		}
	}
	if each > most {
		t.Errorf("%d bytes a shadow, more than %d", each, most)
	}
}
