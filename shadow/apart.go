package shadow

import (
	"container/heap"
	"context"
	"strconv"
	"time"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/kv"
	"github.com/weir-iot/weir/internal/topic"
)

// watch knows the shadows of a partition whose desired state is not reported,
// and when there is something to do about each.
type watch struct {
	byKey map[string]*waiting
	due   dueHeap
}

// waiting is one shadow that is apart.
type waiting struct {
	key, thing, name string
	since            int64         // milliseconds
	next             time.Time     // of the next resend; zero: none
	distance         time.Duration // between the last resend and the next
	diverges         time.Time     // when to say so; zero: said, or never
	index            int           // in the heap
}

// at returns when there is something to do.
func (w *waiting) at() time.Time {
	if w.next.IsZero() || !w.diverges.IsZero() && w.diverges.Before(w.next) {
		return w.diverges
	}
	return w.next
}

type dueHeap []*waiting

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].at().Before(h[j].at()) }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *dueHeap) Push(x any) { w := x.(*waiting); w.index = len(*h); *h = append(*h, w) }
func (h *dueHeap) Pop() any {
	old := *h
	w := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return w
}

// watchApart finds the shadows that are apart already, if anybody wants to know.
func (s *session) watchApart(ctx context.Context) error {
	if s.o.Resend <= 0 && s.o.Diverged <= 0 {
		return nil
	}
	s.apart = &watch{byKey: map[string]*waiting{}}
	return s.o.Shadows.Scan(ctx, "", func(e kv.Entry) error {
		thing, name, ok := parseKey(e.Key)
		if !ok || int(s.o.Log.Partition(thing)) != s.p.id {
			return nil
		}
		r, err := decode(e.Value)
		if err != nil {
			s.p.log.Error("a document cannot be read", "key", e.Key, "error", err)
			return nil
		}
		s.apart.note(thing, name, r, s.o)
		// What was due before the last position was saved has been said.
		if w := s.apart.byKey[e.Key]; w != nil && !w.diverges.IsZero() && w.diverges.UnixMilli() < s.since {
			w.diverges = time.Time{}
			s.apart.move(w)
		}
		return nil
	})
}

// note takes a new version up. A change sends the delta by itself, so the
// distance of resending begins anew.
func (x *watch) note(thing, name string, r *record, o *Options) {
	key := keyOf(thing, name)
	w := x.byKey[key]
	if r.apart == 0 || !r.alive() {
		if w != nil {
			delete(x.byKey, key)
			if w.index >= 0 {
				heap.Remove(&x.due, w.index)
			}
		}
		return
	}
	if w == nil {
		w = &waiting{key: key, thing: thing, name: name, index: -1}
		x.byKey[key] = w
	}
	if w.since != r.apart {
		w.since = r.apart
		w.diverges = time.Time{}
		if o.Diverged > 0 {
			w.diverges = time.UnixMilli(r.apart).Add(o.Diverged)
		}
	}
	if o.Resend > 0 {
		w.distance = o.Resend
		w.next = o.Now().Add(w.distance)
	}
	x.move(w)
}

func (x *watch) move(w *waiting) {
	switch idle := w.at().IsZero(); {
	case idle && w.index >= 0:
		heap.Remove(&x.due, w.index)
		w.index = -1
	case idle:
	case w.index >= 0:
		heap.Fix(&x.due, w.index)
	default:
		heap.Push(&x.due, w)
	}
}

// waiting returns a context that ends when ctx does or something is due.
func (s *session) waiting(ctx context.Context) (context.Context, context.CancelFunc) {
	if s.apart == nil || len(s.apart.due) == 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, max(s.apart.due[0].at().Sub(s.o.Now()), 0))
}

// dueMax bounds what is sent in one turn.
const dueMax = 100

// dueApart sends what is due.
func (s *session) dueApart(ctx context.Context) {
	if s.apart == nil {
		return
	}
	now := s.o.Now()
	for n := 0; n < dueMax && len(s.apart.due) > 0; n++ {
		w := s.apart.due[0]
		if w.at().After(now) {
			return
		}
		d, err := s.load(ctx, w.thing, w.name)
		if err != nil || d.rec == nil || d.rec.apart == 0 {
			// A later look at the document will tell.
			w.next, w.diverges = time.Time{}, time.Time{}
			s.apart.move(w)
			continue
		}
		if !w.diverges.IsZero() && !w.diverges.After(now) {
			w.diverges = time.Time{}
			s.m.diverged.Inc()
			s.diverged(d, now)
		}
		if !w.next.IsZero() && !w.next.After(now) {
			w.distance = min(2*w.distance, s.o.ResendMax)
			w.next = now.Add(w.distance)
			if b, ok := d.rec.appendDelta(nil, ""); ok {
				s.m.resent.Inc()
				s.answer(w.thing, message{topic: prefixOf(w.thing, w.name) + "update/delta", payload: b})
			}
		}
		s.apart.move(w)
	}
}

// divergedTopic is where Weir says that a shadow is apart for too long, with the
// thing and, of a named shadow, its name behind it.
const divergedTopic = "$aws/events/shadow/diverged/"

func (s *session) diverged(d *doc, now time.Time) {
	name := divergedTopic + d.thing
	b := appendQuoted([]byte(`{"eventType":"diverged","thingName":`), d.thing)
	if d.name != "" {
		name += "/" + d.name
		b = appendQuoted(append(b, `,"shadowName":`...), d.name)
	}
	b = strconv.AppendUint(append(b, `,"version":`...), d.rec.version, 10)
	b = strconv.AppendInt(append(b, `,"since":`...), d.rec.apart, 10)
	b = strconv.AppendInt(append(b, `,"timestamp":`...), now.UnixMilli(), 10)
	diff, _ := delta(&d.rec.desired.state, &d.rec.desired.meta, &d.rec.reported.state)
	b = append(diff.append(append(b, `,"delta":`...)), '}')
	s.turn.answers = append(s.turn.answers, answer{[]*event.Event{{
		Topic: topic.Name(name), Key: d.thing, Payload: b, QoS: 1, Protocol: event.Server}}})
}

func uitoa(n uint64) string { return strconv.FormatUint(n, 10) }
