package server

import (
	"context"
	"encoding/json"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
)

// What a process without a gateway asks those that are one: retained messages,
// where devices connect to, what a connected client may do.

const (
	tellRetained  = "retained"
	tellEndpoints = "endpoints"

	retainedBytes = 512 << 10 // of messages in one answer, about; at least one
)

// retainedQuestion asks for the message of Topic, or with Max for the first ones
// behind it.
type retainedQuestion struct {
	Topic topic.Name `json:"topic"`
	Max   int        `json:"max,omitempty"`
}

// retainedAnswer may have fewer messages than were asked for; then More says
// that there are.
type retainedAnswer struct {
	Messages []*event.Event `json:"messages"`
	More     bool           `json:"more,omitempty"`
}

// answerIngest serves processes without a gateway.
func (s *Server) answerIngest(_ context.Context, q *question, _ []byte) (any, []byte, error) {
	const op = "server.answerIngest"
	switch q.Operation {
	case tellEndpoints:
		return s.deviceEndpoints(), nil, nil
	case tellRetained:
		var in retainedQuestion
		if err := json.Unmarshal(q.Args, &in); err != nil {
			return nil, nil, errs.E(op, errs.Invalid, err)
		}
		a := &retainedAnswer{}
		if in.Max == 0 {
			if e := s.gateway.Retained(in.Topic); e != nil {
				a.Messages = append(a.Messages, e)
			}
			return a, nil, nil
		}
		bytes := 0
		for _, e := range s.gateway.RetainedAfter(in.Topic, in.Max) {
			if bytes += e.Size(); bytes > retainedBytes && len(a.Messages) > 0 {
				a.More = true
				break
			}
			a.Messages = append(a.Messages, e)
		}
		return a, nil, nil
	}
	return nil, nil, errs.Errorf(op, errs.NotImplemented, "no operation %q", q.Operation)
}

// tell asks one gateway of another process.
func (s *Server) tell(operation string, args, answer any) error {
	ctx, cancel := context.WithTimeout(context.Background(), askPatience)
	defer cancel()
	_, err := s.services.ask(ctx, "the role ingest", ingestSubject, question{Operation: operation}, args, nil, answer)
	return err
}

// retainedMessages are those of this process's gateway, or of another's.
type retainedMessages struct{ s *Server }

func (r retainedMessages) one(n topic.Name) (*event.Event, error) {
	if r.s.gateway != nil {
		return r.s.gateway.Retained(n), nil
	}
	var a retainedAnswer
	if err := r.s.tell(tellRetained, retainedQuestion{Topic: n}, &a); err != nil || len(a.Messages) == 0 {
		return nil, err
	}
	return a.Messages[0], nil
}

func (r retainedMessages) after(n topic.Name, max int) ([]*event.Event, error) {
	if r.s.gateway != nil {
		return r.s.gateway.RetainedAfter(n, max), nil
	}
	var out []*event.Event
	for {
		var a retainedAnswer
		if err := r.s.tell(tellRetained, retainedQuestion{n, max - len(out)}, &a); err != nil {
			return nil, err
		}
		out = append(out, a.Messages...)
		if !a.More || len(out) >= max {
			return out, nil
		}
		n = out[len(out)-1].Topic
	}
}

// answerClient explains what a client may do that is connected here. Where it is
// not, another process answers.
func (s *Server) answerClient(ctx context.Context, q *question, _ []byte) (any, []byte, error) {
	var in control.AuthzQuestion
	if err := json.Unmarshal(q.Args, &in); err != nil || s.gateway.Principal(in.ClientID) == nil {
		return nil, nil, errSilent
	}
	a, err := authz{s}.Explain(ctx, in)
	return a, nil, err
}

// explainElsewhere asks the gateway that has the client.
func (s *Server) explainElsewhere(ctx context.Context, q *control.AuthzQuestion) (*control.AuthzAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, statusPatience)
	defer cancel()
	var a control.AuthzAnswer
	_, err := s.services.ask(ctx, "the role ingest", clientSubject, question{}, q, nil, &a)
	if errs.Is(err, errs.Timeout) {
		return nil, errNotConnected(q.ClientID)
	}
	if err != nil {
		return nil, err
	}
	return &a, nil
}
