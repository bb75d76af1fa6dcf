package server

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/weir-iot/weir/internal/errs"
)

// What processes of one Weir say to one another is a head, as JSON, and a body
// as it is: the head's length in four bytes, the head, the body.

// question is the head of a request.
type question struct {
	Operation string          `json:"operation,omitempty"` // where an endpoint has several
	Args      json.RawMessage `json:"args,omitempty"`
	Within    int64           `json:"within,omitempty"` // milliseconds the one who asks waits; 0: not said
}

// reply is the head of an answer, or says that one is being worked on.
type reply struct {
	Working bool `json:"working,omitempty"`

	Failed bool            `json:"failed,omitempty"`
	Kind   errs.Kind       `json:"kind,omitempty"`
	Text   string          `json:"text,omitempty"` // of the error
	Answer json.RawMessage `json:"answer,omitempty"`
}

const (
	askPatience   = 10 * time.Second // where the one who asks has no limit of its own
	answersAtOnce = 512              // of one endpoint
	workingEvery  = time.Second      // how often it is said that an answer is being worked on
	silence       = 10 * time.Second // after which whoever was asked counts as gone
	flushPatience = 5 * time.Second  // until the NATS server knows what this process answers
)

func frame(head any, body []byte) ([]byte, error) {
	h, err := json.Marshal(head)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 4, 4+len(h)+len(body))
	binary.BigEndian.PutUint32(b, uint32(len(h)))
	return append(append(b, h...), body...), nil
}

func unframe(b []byte, head any) (body []byte, err error) {
	if len(b) < 4 {
		return nil, errors.New("a message of another process is too short")
	}
	n := binary.BigEndian.Uint32(b)
	if uint64(n) > uint64(len(b)-4) {
		return nil, errors.New("a message of another process is cut off")
	}
	if err := json.Unmarshal(b[4:4+n], head); err != nil {
		return nil, fmt.Errorf("a message of another process: %w", err)
	}
	return b[4+n:], nil
}

// ask asks one of the processes that answer on subject, and decodes what it says
// into answer. who names them in errors. Errors: those of who answers, with
// their kinds; errs.Unavailable where nobody is there, errs.Timeout where no
// answer came, errs.TooLarge where NATS does not take the question.
func (v *services) ask(ctx context.Context, who, subject string, q question, args any, body []byte, answer any) ([]byte, error) {
	op := "server.ask " + subject
	if _, limited := ctx.Deadline(); !limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, askPatience)
		defer cancel()
	}
	end, _ := ctx.Deadline()
	q.Within = max(1, time.Until(end).Milliseconds())
	var err error
	if args != nil {
		if q.Args, err = json.Marshal(args); err != nil {
			return nil, errs.E(op, errs.Invalid, err)
		}
	}
	b, err := frame(q, body)
	if err != nil {
		return nil, errs.E(op, errs.Internal, err)
	}
	if most := v.nc.MaxPayload(); int64(len(b)) > most {
		return nil, errs.Errorf(op, errs.TooLarge, "%d bytes for %s: the NATS server takes messages of %d (max_payload)", len(b), who, most)
	}
	inbox := v.nc.NewInbox()
	sub, err := v.nc.SubscribeSync(inbox)
	if err == nil {
		defer func() { _ = sub.Unsubscribe() }()
		err = v.nc.PublishRequest(subject, inbox, b)
	}
	if err != nil {
		return nil, errs.Errorf(op, errs.Unavailable, "%s cannot be asked: %w", who, err)
	}
	r, out := reply{Working: true}, []byte(nil)
	for r.Working {
		within, cancel := context.WithTimeout(ctx, silence)
		m, err := sub.NextMsgWithContext(within)
		cancel()
		switch {
		case errors.Is(err, nats.ErrNoResponders):
			return nil, errs.Errorf(op, errs.Unavailable, "no process is there for %s", who)
		case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
			return nil, errs.Errorf(op, errs.Timeout, "%s has not been heard of for %v; what became of the question is not known", who, silence)
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
			return nil, errs.Errorf(op, errs.Timeout, "%s did not answer in time", who)
		case err != nil:
			return nil, errs.Errorf(op, errs.Unavailable, "%s cannot be asked: %w", who, err)
		}
		r = reply{}
		if out, err = unframe(m.Data, &r); err != nil {
			return nil, errs.E(op, errs.Internal, err)
		}
	}
	switch {
	case r.Failed:
		return nil, errs.Errorf(op, r.Kind, "%s", r.Text)
	case answer != nil && len(r.Answer) > 0:
		if err := json.Unmarshal(r.Answer, answer); err != nil {
			return nil, errs.E(op, errs.Internal, err)
		}
	}
	return out, nil
}

// errSilent leaves a question to other processes.
var errSilent = errors.New("not for this process")

// answerer does what other processes ask on one subject.
type answerer func(ctx context.Context, q *question, body []byte) (answer any, out []byte, err error)

// endpoint is a micro service's endpoint whose questions are answered side by
// side.
type endpoint struct {
	ctx    context.Context
	v      *services
	answer answerer
	places chan struct{}

	mu     sync.Mutex // guards closed, and under's growing from 0
	closed bool
	under  sync.WaitGroup
}

// close waits until the questions under way are answered; later ones are refused.
func (e *endpoint) close() {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.under.Wait()
}

// Handle implements micro.Handler. It is called for one question after the
// other.
func (e *endpoint) Handle(r micro.Request) {
	select {
	case e.places <- struct{}{}:
	case <-e.ctx.Done():
		return
	}
	e.mu.Lock()
	closed := e.closed
	if !closed {
		e.under.Go(func() {
			defer func() { <-e.places }()
			e.respond(r)
		})
	}
	e.mu.Unlock()
	if closed {
		<-e.places
		e.reply(r, nil, nil, errs.Errorf("server.answer", errs.Unavailable, "the process that was asked ends"))
	}
}

func (e *endpoint) respond(r micro.Request) {
	var q question
	var answer any
	var out []byte
	body, err := unframe(r.Data(), &q)
	if err != nil {
		err = errs.E("server.answer", errs.Invalid, err)
	} else {
		ctx, cancel := e.ctx, context.CancelFunc(func() {})
		if q.Within > 0 {
			ctx, cancel = context.WithTimeout(e.ctx, time.Duration(q.Within)*time.Millisecond)
		}
		quiet := e.working(r)
		answer, out, err = e.answer(ctx, &q, body)
		quiet()
		cancel()
	}
	e.reply(r, answer, out, err)
}

// working says now and then that the answer to r is being worked on, until quiet
// has returned.
func (e *endpoint) working(r micro.Request) (quiet func()) {
	done := make(chan struct{})
	var saying sync.WaitGroup
	saying.Go(func() {
		t := time.NewTicker(workingEvery)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				if b, err := frame(reply{Working: true}, nil); err == nil {
					_ = e.v.nc.Publish(r.Reply(), b) // who asks notices where it does not come
				}
			case <-done:
				return
			}
		}
	})
	return func() { close(done); saying.Wait() }
}

func (e *endpoint) reply(r micro.Request, answer any, out []byte, err error) {
	if err == errSilent {
		return
	}
	head := reply{}
	if err == nil && answer != nil {
		head.Answer, err = json.Marshal(answer)
	}
	if err != nil {
		head, out = reply{Failed: true, Kind: errs.KindOf(err), Text: errs.Text(err)}, nil
	}
	b, err := frame(head, out)
	if most := e.v.nc.MaxPayload(); err == nil && int64(len(b)) > most {
		b, err = frame(reply{Failed: true, Kind: errs.TooLarge,
			Text: fmt.Sprintf("an answer of %d bytes: the NATS server takes messages of %d (max_payload)", len(b), most)}, nil)
	}
	if err == nil {
		err = r.Respond(b)
	}
	if err != nil {
		e.v.s.logger.Warn("another process is not answered", "subject", r.Subject(), "err", err)
	}
}
