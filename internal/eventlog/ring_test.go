package eventlog

import (
	"strings"
	"testing"

	"github.com/weir-iot/weir/internal/event"
)

// What a publisher may make large besides the payload counts too.
func TestRingIsBoundedInBytesOfProperties(t *testing.T) {
	r := newRing(ringEvents, 1<<20)
	big := strings.Repeat("x", 32<<10)
	for i := range 100 {
		r.push([]*event.Event{{Topic: "t", Seq: uint64(i + 1), Props: &event.Properties{User: []event.UserProperty{{Key: "k", Value: big}}}}})
	}
	if held := r.n * len(big); held > 1<<20 {
		t.Errorf("%d events hold %d bytes, the bound is %d", r.n, held, 1<<20)
	}
}
