package mqtt

import (
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
)

// untracked is the token of a QoS 0 publish: nobody waits for its outcome.
const untracked = ^uint64(0)

// ackSlot is one QoS 1 publish on its way to the log. The slots of a session
// are a ring: commits may come in any order when a client publishes to several
// partitions, PUBACKs go out from the ring's head.
type ackSlot struct {
	pid  uint16
	done bool
	code byte
}

// reserve takes the next slot of the ring for a publish. With MQTT 5 a client
// that has more under way than the receive maximum breaks the protocol; with
// 3.1.1, which has none, it is not read from until there is room.
func (s *session) reserve(pid uint16) (token uint64, f *fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for int(s.ackTail-s.ackHead) >= s.c.s.limits.InFlight {
		if s.c.v5 {
			return 0, faultf(codeReceiveMax, "in_flight", "more publishes under way than the receive maximum")
		}
		if s.closed {
			return 0, errEnded
		}
		s.waiters++
		s.room.Wait()
		s.waiters--
	}
	if int(s.ackTail-s.ackHead) == len(s.acks) {
		grown := make([]ackSlot, max(8, 2*len(s.acks)))
		for i := s.ackHead; i != s.ackTail; i++ {
			grown[i%uint32(len(grown))] = s.acks[i%uint32(len(s.acks))]
		}
		s.acks = grown
	}
	t := s.ackTail
	s.acks[t%uint32(len(s.acks))] = ackSlot{pid: pid}
	s.ackTail++
	return uint64(t), nil
}

// refuse completes a slot with a code that says no. The caller holds s.mu.
func (s *session) refuse(token uint64, code byte, text string) {
	if s.c.v5 && !s.c.noReasons {
		if s.reasons == nil {
			s.reasons = map[uint64][]byte{}
		}
		s.reasons[token] = s.c.reason(text)
	}
	s.settle(token, code)
}

// settle completes a slot, and puts the PUBACKs that are due in the buffer.
// The caller holds s.mu.
func (s *session) settle(token uint64, code byte) {
	slot := &s.acks[uint32(token)%uint32(len(s.acks))]
	slot.done, slot.code = true, code
	moved := false
	for s.ackHead != s.ackTail {
		slot := &s.acks[s.ackHead%uint32(len(s.acks))]
		if !slot.done {
			break
		}
		s.buffer()
		s.buf = appendPuback(s.buf, slot.pid, slot.code, s.c.v5, s.reasons[uint64(s.ackHead)])
		if slot.code == codeSuccess {
			s.acked++
		} else {
			delete(s.reasons, uint64(s.ackHead))
		}
		s.ackHead++
		moved = true
	}
	if moved && s.waiters > 0 {
		s.room.Broadcast()
	}
}

// Appended implements Receipt. It is called by a partition's appender.
func (s *session) Appended(token uint64, _ *event.Event, err error) {
	if err != nil {
		s.c.s.m.failures.WithLabelValues(errs.KindOf(err).String()).Inc()
	}
	if token == untracked {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	if err == nil {
		s.settle(token, codeSuccess)
		return
	}
	if !s.c.v5 {
		// 3.1.1 has no way to say no. The slot stays open, so that nothing
		// behind it is acknowledged either, and the connection ends: now, so that
		// the log takes nothing more behind what it has not stored.
		s.c.endLocked(faultf(codeImplementation, "store", errs.Text(err)))
		return
	}
	s.refuse(token, appendCode(err), errs.Text(err))
}

// appendCode maps an error of the log to a reason code of PUBACK.
func appendCode(err error) byte {
	switch errs.KindOf(err) {
	case errs.Quota:
		return codeQuota
	case errs.TooLarge, errs.Invalid:
		return codeImplementation
	}
	return codeUnspecified
}

// Flush implements Receipt: a commit has been told in full.
func (s *session) Flush() {
	s.mu.Lock()
	s.write()
	s.mu.Unlock()
}

// stopReading makes the read loop take no further packet.
func (s *session) stopReading() {
	s.mu.Lock()
	s.stopping = true
	s.mu.Unlock()
}

// awaitAcks returns when no publish is under way any more, or at the deadline.
func (s *session) awaitAcks(deadline time.Time) {
	for {
		s.mu.Lock()
		open := s.ackHead != s.ackTail && !s.closed
		s.mu.Unlock()
		if !open || time.Now().After(deadline) {
			return
		}
		time.Sleep(time.Millisecond)
	}
}
