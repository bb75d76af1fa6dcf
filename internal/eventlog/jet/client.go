package jet

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weir-iot/weir/internal/errs"
)

// Connect returns a client's connection to the store, in Weir's account, for
// what processes say to one another. It connects again by itself for as long as
// it is open, also to an embedded server that was opened again; the caller
// closes it. It never hears itself.
// Errors: errs.Unavailable.
func (s *Store) Connect(name string) (*nats.Conn, error) {
	o := []nats.Option{
		nats.Name(name), nats.NoEcho(), nats.MaxReconnects(-1), nats.ReconnectWait(200 * time.Millisecond),
		nats.ReconnectJitter(50*time.Millisecond, 50*time.Millisecond), nats.PingInterval(10 * time.Second), nats.MaxPingsOutstanding(2),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			s.Logger().Debug("a connection between processes", "name", name, "subject", subject, "err", err)
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				s.Logger().Warn("the connection to other processes is lost; connecting again", "name", name, "err", err)
			}
		}),
	}
	url := s.o.URL
	if s.Embedded() {
		url = "nats://weir"
		o = append(o, nats.InProcessServer(s), nats.UserInfo("weir", s.gate.secret))
	} else if s.o.Creds != "" {
		user, pass, ok, err := login(s.o.Creds)
		if err != nil {
			return nil, err
		}
		if ok {
			o = append(o, nats.UserInfo(user, pass))
		} else {
			o = append(o, nats.UserCredentials(s.o.Creds))
		}
	}
	nc, err := nats.Connect(url, o...)
	if err != nil {
		return nil, errs.E("jet.Connect", errs.Unavailable, err)
	}
	return nc, nil
}

// InProcessConn implements nats.InProcessConnProvider for the embedded server
// as it is now.
func (s *Store) InProcessConn() (net.Conn, error) {
	s.mu.Lock()
	srv := s.srv
	s.mu.Unlock()
	if srv == nil {
		return nil, errStale
	}
	return srv.InProcessConn()
}

// Settled returns once what the stream holds up to seq may be shown: the store
// answers a read behind the commit that was under way when it came, its sync
// included (nats-server 2.15 keeps reads out of a commit), and a replica shows
// only what the quorum has. It is slower than being told by who committed, and
// the way out where nobody is left to tell.
// Errors: errs.NotFound where seq is beyond the stream's end, errs.Unavailable.
func (s *Store) Settled(stream string, seq uint64) error {
	const op = "jet.Settled"
	if seq == 0 {
		return nil
	}
	seen := uint64(0)
	deadline := time.Now().Add(s.o.Deadline)
	for {
		_, err := s.Fetch(Query{Stream: stream, From: seq, Max: 1, MaxBytes: 1}, func(m *Message) error {
			seen = m.Seq
			return nil
		})
		if err != nil {
			return err
		}
		if seen >= seq {
			return nil
		}
		// A replica that lags, or everything up to seq is trimmed.
		st, err := s.State(stream)
		if err != nil {
			return err
		}
		switch {
		case st.LastSeq < seq:
			return errs.E(op, errs.NotFound, fmt.Errorf("stream %s ends at %d", stream, st.LastSeq))
		case st.Messages == 0 || st.FirstSeq > seq:
			return nil
		case time.Now().After(deadline):
			return errs.E(op, errs.Unavailable, errors.New("the replicas lag"))
		}
		time.Sleep(10 * time.Millisecond)
	}
}
