package functions

import (
	"context"
	"encoding/json"
	"time"

	"github.com/weir-iot/weir/functions/sandbox"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/kv"
)

// Elsewhere asks one of the processes that run functions, from one that does
// not. Ask hands operation, arguments and body to the Answer of a Service there;
// what that answers is decoded into answer, and its body returned. Errors:
// Answer's, with their kinds; errs.Unavailable where nobody runs functions,
// errs.Timeout where nobody answered until ctx ended.
type Elsewhere interface {
	Ask(ctx context.Context, operation string, args any, body []byte, answer any) ([]byte, error)
}

// Bounds of what is asked of another process.
const (
	waitElsewhere  = 30 * time.Second // for a place
	graceElsewhere = 5 * time.Second  // for the way there and back
	logsPoll       = 20 * time.Second // one question for further lines
)

// The operations, with their arguments.
const (
	opCall      = "call"      // Request, with the payload as body; answers a Response and its payload
	opEnqueue   = "enqueue"   // Request, with the payload as body; answers the id
	opDeploy    = "deploy"    // Deployment, whose package is in the bucket; answers a Deployed
	opPublish   = "publish"   // named; answers a Function
	opDelete    = "delete"    // named
	opLost      = "lost"      // named; answers a list of Lost
	opLogs      = "logs"      // logsQuestion; answers a logsAnswer
	opIsolation = "isolation" // answers a sandbox.Report
)

type named struct {
	Ref         string `json:"ref"`
	Qualifier   string `json:"qualifier,omitempty"`
	Description string `json:"description,omitempty"`
}

type logsQuestion struct {
	Ref   string `json:"ref"`
	Last  int    `json:"last"`
	After uint64 `json:"after,omitempty"` // only lines behind it; with it one waits for the next
	Wait  bool   `json:"wait,omitempty"`
}

type logsAnswer struct {
	Lines []LogLine `json:"lines"`
	After uint64    `json:"after"`
}

// Answer does what another process's Service asks.
func (s *Service) Answer(ctx context.Context, operation string, args, body []byte) (answer any, out []byte, err error) {
	take := func(into any) bool {
		if e := json.Unmarshal(args, into); e != nil {
			err = errs.Errorf("functions.Answer", errs.Invalid, "%s: %w", operation, e)
		}
		return err == nil
	}
	switch operation {
	case opCall, opEnqueue:
		var q Request
		if !take(&q) {
			return nil, nil, err
		}
		q.Payload = body
		if operation == opEnqueue {
			answer, err = s.Enqueue(ctx, &q)
			return answer, nil, err
		}
		resp, err := s.Call(ctx, &q)
		if err != nil {
			return nil, nil, err
		}
		out, resp.Payload = resp.Payload, nil
		return resp, out, nil
	case opDeploy:
		var d Deployment
		if take(&d) {
			answer, err = s.Deploy(ctx, d)
		}
		if err != nil && d.Uploaded {
			s.sweep(ctx, &record{Latest: d.Config}, &record{})
		}
	case opLogs:
		var q logsQuestion
		if take(&q) {
			answer, err = s.logsAfter(ctx, q)
		}
	case opIsolation:
		answer = s.Isolation(ctx)
	default:
		var q named
		if !take(&q) {
			return nil, nil, err
		}
		switch operation {
		case opPublish:
			answer, err = s.Publish(ctx, q.Ref, q.Description)
		case opDelete:
			err = s.Delete(ctx, q.Ref, q.Qualifier)
		case opLost:
			answer, err = s.Lost(q.Ref)
		default:
			err = errs.Errorf("functions.Answer", errs.NotImplemented, "no operation %q", operation)
		}
	}
	return answer, nil, err
}

func (s *Service) logsAfter(ctx context.Context, q logsQuestion) (*logsAnswer, error) {
	f, _, _, err := s.find(q.Ref, "")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, logsPoll)
	defer cancel()
	if !q.Wait {
		q.After = 0
	}
	a := &logsAnswer{Lines: []LogLine{}}
	a.Lines, a.After = f.logs.after(ctx, q.After, q.Last, q.Wait)
	return a, nil
}

// elsewhere is the part of a Service whose functions run in other processes.
type elsewhere struct {
	s    *Service
	asks Elsewhere
}

func (e *elsewhere) call(ctx context.Context, cfg *Config, q *Request) (*Response, error) {
	limit := time.Duration(cfg.Timeout)*time.Second + e.s.o.InitTime + graceElsewhere
	if q.Wait {
		limit += waitElsewhere
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	args := *q
	args.Payload = nil
	var resp Response
	out, err := e.asks.Ask(ctx, opCall, &args, q.Payload, &resp)
	if errs.Is(err, errs.Timeout) {
		// Not the function's own time, of which a Response tells: the process is gone.
		return nil, errs.E("functions.Invoke", errs.Unavailable, err)
	}
	if err != nil {
		return nil, err
	}
	resp.Payload = out
	return &resp, nil
}

func (e *elsewhere) enqueue(ctx context.Context, q *Request) (id string, err error) {
	args := *q
	args.Payload = nil
	_, err = e.asks.Ask(ctx, opEnqueue, &args, q.Payload, &id)
	return id, err
}

// deploy puts the package into the bucket, from where the other process has it.
func (e *elsewhere) deploy(ctx context.Context, d Deployment) (*Deployed, error) {
	cfg := &d.Config
	if d.Package != nil {
		sum, err := e.s.codes.put(ctx, d.Package)
		if err != nil {
			return nil, err
		}
		cfg.Code, cfg.CodeSize = sum, int64(len(d.Package))
		d.Package, d.Uploaded = nil, true
	}
	var out Deployed
	if _, err := e.asks.Ask(ctx, opDeploy, d, nil, &out); err != nil {
		return nil, err
	}
	return &out, e.catchUp(ctx, d.Name)
}

func (e *elsewhere) publish(ctx context.Context, ref, description string) (*Function, error) {
	var out Function
	if _, err := e.asks.Ask(ctx, opPublish, named{Ref: ref, Description: description}, nil, &out); err != nil {
		return nil, err
	}
	return &out, e.catchUp(ctx, out.Name)
}

func (e *elsewhere) delete(ctx context.Context, ref, name, qualifier string) error {
	if _, err := e.asks.Ask(ctx, opDelete, named{Ref: ref, Qualifier: qualifier}, nil, nil); err != nil {
		return err
	}
	return e.catchUp(ctx, name)
}

// catchUp makes what another process wrote of a function readable here.
func (e *elsewhere) catchUp(ctx context.Context, name string) error {
	entry, err := e.s.bucket.Get(ctx, recordPrefix+name)
	if err != nil && !errs.Is(err, errs.NotFound) {
		return err
	}
	e.s.seen(kv.Entry{Key: recordPrefix + name, Value: entry.Value, Revision: entry.Revision})
	return nil
}

func (e *elsewhere) lost(ref string) (list []*Lost, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), graceElsewhere)
	defer cancel()
	_, err = e.asks.Ask(ctx, opLost, named{Ref: ref}, nil, &list)
	return list, err
}

func (e *elsewhere) logs(ctx context.Context, ref string, last int, follow bool, fn func(LogLine) error) error {
	q := logsQuestion{Ref: ref, Last: last}
	for {
		var a logsAnswer
		asking, cancel := context.WithTimeout(ctx, logsPoll+graceElsewhere)
		_, err := e.asks.Ask(asking, opLogs, q, nil, &a)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		for _, l := range a.Lines {
			if err := fn(l); err != nil {
				return err
			}
		}
		if !follow {
			return nil
		}
		q.After, q.Last, q.Wait = a.After, -1, true
	}
}

func (e *elsewhere) isolation(ctx context.Context) *sandbox.Report {
	var r sandbox.Report
	if _, err := e.asks.Ask(ctx, opIsolation, nil, nil, &r); err != nil {
		e.s.logger.Warn("the process that runs functions does not say what it keeps them from", "err", err)
	}
	return &r
}
