package eventlog

import (
	"hash/maphash"
	"sync/atomic"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/topic"
)

// subjects bounds the distinct live topics of a partition: JetStream keeps
// state in memory for each. It knows topics by hash. What it does not know it
// counts as new, which is too much after a start and after trimming; so before
// it refuses one, it asks the stream how many there are and whether this one
// is among them.
type subjects struct {
	p     *partition
	limit int
	seed  maphash.Seed
	known map[uint64]struct{}
	live  atomic.Int64 // distinct subjects, at most
	asked time.Time    // when the stream was last asked
}

func (s *subjects) init(p *partition) {
	s.p, s.seed, s.known = p, maphash.MakeSeed(), map[uint64]struct{}{}
	s.limit = max(1, p.l.o.MaxSubjects/p.l.o.Partitions)
}

// opened takes the stream's count over.
func (s *subjects) opened(n int) { s.live.Store(int64(n)) }

// looked takes a count over that other processes may have raised.
func (s *subjects) looked(n int) {
	if live := s.live.Load(); int64(n) > live {
		s.live.CompareAndSwap(live, int64(n))
	}
}

// admit is called by the appender's goroutine.
func (s *subjects) admit(n topic.Name) error {
	h := maphash.String(s.seed, string(n))
	if _, ok := s.known[h]; ok {
		return nil
	}
	if s.live.Load() < int64(s.limit) {
		s.learn(h)
		s.live.Add(1)
		return nil
	}
	const op = "eventlog.Append"
	full := errs.Errorf(op, errs.Quota, "the log holds %d distinct topics, the limit", s.limit)
	has, err := s.p.l.store.HasSubject(s.p.stream, string(appendSubject(nil, uint16(s.p.n), n)))
	if err != nil {
		return errs.E(op, errs.Unavailable, err)
	}
	if has {
		s.learn(h)
		return nil
	}
	if time.Since(s.asked) < 200*time.Millisecond {
		s.p.l.m.refusedSubjects.Inc()
		return full
	}
	s.asked = time.Now()
	st, err := s.p.l.store.State(s.p.stream)
	if err != nil {
		return errs.E(op, errs.Unavailable, err)
	}
	s.live.Store(int64(st.Subjects))
	if st.Subjects >= s.limit {
		s.p.l.m.refusedSubjects.Inc()
		return full
	}
	// Trimming has let topics go: those known may be among them.
	clear(s.known)
	s.learn(h)
	s.live.Add(1)
	return nil
}

func (s *subjects) learn(h uint64) { s.known[h] = struct{}{} }
