package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/weir-iot/weir/rules"
)

// services are what this process answers other processes of the same Weir, and
// asks them, over NATS: micro services in Weir's own account, which neither data
// teams nor functions can enter.
type services struct {
	s  *Server
	nc *nats.Conn
}

// What the rules processes are asked. Each answers for the partitions it owns,
// in as many parts as it needs.
const (
	rulesStatus      = "weir.rules.status"
	rulesTrace       = "weir.rules.trace" // only the owner of the event's partition answers
	statusPart       = 100                // rules in one message
	statusPatience   = 500 * time.Millisecond
	statusPoll       = 25 * time.Millisecond
	statusPollOfOwn  = 2 * time.Millisecond
	serviceVersion   = "1.0.0"
	rulesServiceName = "weir-rules"

	functionsSubject = "weir.functions.run"
	enrolSubject     = "weir.registry.enrol"
	ingestSubject    = "weir.ingest.tell"   // one gateway answers
	clientSubject    = "weir.ingest.client" // only the gateway that has the client answers
)

// statusAnswer is one part of an answer.
type statusAnswer struct {
	Owned int                `json:"owned"` // partitions; in the last part
	Rules []rules.RuleStatus `json:"rules"`
	Last  bool               `json:"last"`
}

func (s *Server) openServices(context.Context) error {
	if s.cfg.NATS.URL == "" {
		return nil
	}
	nc, err := s.log.Store().Connect("weir services")
	if err != nil {
		return err
	}
	s.services = &services{s: s, nc: nc}
	s.onClose(func() error { nc.Close(); return nil })
	return nil
}

// conn returns the connection to other processes; nil where there can be none.
func (v *services) conn() *nats.Conn {
	if v == nil {
		return nil
	}
	return v.nc
}

// Run answers until ctx ends.
func (v *services) Run(ctx context.Context) error {
	s := v.s
	run := &answering{v: v, ctx: ctx}
	var err error
	if s.engine != nil {
		err = errors.Join(err,
			run.add(rulesServiceName, "Accounts of the rules whose partitions this process owns", true, map[string]micro.Handler{
				rulesStatus: micro.HandlerFunc(v.answerStatus), rulesTrace: micro.HandlerFunc(v.answerTrace)}))
	}
	if s.roles&functionsRole != 0 {
		err = errors.Join(err,
			run.add("weir-functions", "Runs functions", false, map[string]micro.Handler{functionsSubject: run.endpoint(v.answerFunctions)}))
	}
	if s.provision != nil {
		err = errors.Join(err,
			run.add("weir-registry", "Enrols devices", false, map[string]micro.Handler{enrolSubject: run.endpoint(s.answerEnrolment)}))
	}
	if s.gateway != nil {
		err = errors.Join(err,
			run.add("weir-ingest", "Tells what gateways alone know", false, map[string]micro.Handler{ingestSubject: run.endpoint(s.answerIngest)}),
			run.add("weir-clients", "Tells of the clients connected here", true, map[string]micro.Handler{clientSubject: run.endpoint(s.answerClient)}))
	}
	if err == nil {
		<-ctx.Done()
	}
	return errors.Join(err, run.stop())
}

func (v *services) answerFunctions(ctx context.Context, q *question, body []byte) (any, []byte, error) {
	return v.s.functions.Answer(ctx, q.Operation, q.Args, body)
}

// answering is the micro services of a process while they run.
type answering struct {
	v         *services
	ctx       context.Context
	services  []micro.Service
	endpoints []*endpoint
}

// add starts a service; once it returns, questions come here. With all, each process of its kind is asked; otherwise
// one of them.
func (r *answering) add(name, description string, all bool, subjects map[string]micro.Handler) error {
	svc, err := micro.AddService(r.v.nc, micro.Config{Name: name, Version: serviceVersion, Description: description, QueueGroupDisabled: all})
	if err != nil {
		return fmt.Errorf("service %s: %w", name, err)
	}
	r.services = append(r.services, svc)
	for subject, h := range subjects {
		// A name may not have the dots of a subject.
		if err := svc.AddEndpoint(subject[strings.LastIndexByte(subject, '.')+1:], h, micro.WithEndpointSubject(subject)); err != nil {
			return fmt.Errorf("service %s: %w", name, err)
		}
	}
	return r.settle()
}

// settle returns when the NATS server knows what this process answers. Without a
// connection it learns of it with the next one.
func (r *answering) settle() error {
	err := r.v.nc.FlushTimeout(flushPatience)
	if r.v.nc.Status() != nats.CONNECTED {
		return nil
	}
	return err
}

func (r *answering) endpoint(f answerer) *endpoint {
	e := &endpoint{ctx: r.ctx, v: r.v, answer: f, places: make(chan struct{}, answersAtOnce)}
	r.endpoints = append(r.endpoints, e)
	return e
}

// stop takes no more questions and returns when those under way are answered.
func (r *answering) stop() error {
	var all []error
	for _, svc := range r.services {
		all = append(all, svc.Stop())
	}
	all = append(all, r.settle())
	for _, e := range r.endpoints {
		e.close()
	}
	return errors.Join(all...)
}

// traceRequest asks how an event stands with a rule.
type traceRequest struct {
	Rule      string `json:"rule"`
	Partition int    `json:"partition"`
	Seq       uint64 `json:"seq"`
}

type traceAnswer struct {
	Handling rules.Handling `json:"handling"`
	Handled  bool           `json:"handled"`
}

func (v *services) answerTrace(r micro.Request) {
	var q traceRequest
	if json.Unmarshal(r.Data(), &q) != nil || q.Partition < 0 {
		return
	}
	if all := v.s.engine.Partitions(); q.Partition >= len(all) || !all[q.Partition].Owned {
		return
	}
	var a traceAnswer
	a.Handling, a.Handled = v.s.engine.Trace(q.Rule, q.Partition, q.Seq)
	if err := r.RespondJSON(a); err != nil {
		v.s.logger.Warn("another process is not answered", "subject", r.Subject(), "err", err)
	}
}

// trace asks the process that runs the rules of a partition how an event stands
// with one of them. handled is false also where nobody does at the moment.
func (s *Server) trace(ctx context.Context, rule string, partition int, seq uint64) (_ rules.Handling, handled bool) {
	if s.engine != nil {
		if h, ok := s.engine.Trace(rule, partition, seq); ok {
			return h, true
		}
		if s.services == nil || s.engine.Partitions()[partition].Owned {
			return rules.Handling{}, false
		}
	}
	body, err := json.Marshal(traceRequest{rule, partition, seq})
	if err != nil {
		panic(err) // it holds nothing JSON cannot say
	}
	ctx, cancel := context.WithTimeout(ctx, statusPatience)
	defer cancel()
	m, err := s.services.nc.RequestWithContext(ctx, rulesTrace, body)
	var a traceAnswer
	if err != nil || json.Unmarshal(m.Data, &a) != nil {
		return rules.Handling{}, false
	}
	return a.Handling, a.Handled
}

func (v *services) answerStatus(r micro.Request) {
	list := v.s.engine.Status()
	for {
		n := min(len(list), statusPart)
		a := statusAnswer{Rules: list[:n], Last: n == len(list)}
		if a.Last {
			a.Owned = v.s.owned()
		}
		if err := r.RespondJSON(a); err != nil {
			v.s.logger.Warn("another process is not answered", "subject", r.Subject(), "err", err)
			return
		}
		if a.Last {
			return
		}
		list = list[n:]
	}
}

// owned returns how many partitions' rules run in this process.
func (s *Server) owned() int {
	if s.engine == nil {
		return 0
	}
	n := 0
	for _, p := range s.engine.Partitions() {
		if p.Owned {
			n++
		}
	}
	return n
}

// statusEvery is how often who waits for the engine looks.
func (s *Server) statusEvery() time.Duration {
	if s.services == nil {
		return statusPollOfOwn
	}
	return statusPoll
}

// ruleStatus returns the accounts of all rules, over all processes that run
// rules. A partition that nobody owns at the moment is missing from it.
func (s *Server) ruleStatus(ctx context.Context) []rules.RuleStatus {
	var lists [][]rules.RuleStatus
	owned := s.owned()
	if s.engine != nil {
		lists = append(lists, s.engine.Status())
	}
	if s.services == nil || owned >= s.log.Partitions() {
		return rules.MergeStatus(lists...)
	}
	ctx, cancel := context.WithTimeout(ctx, statusPatience)
	defer cancel()
	inbox := s.services.nc.NewRespInbox()
	sub, err := s.services.nc.SubscribeSync(inbox)
	if err == nil {
		defer sub.Unsubscribe()
		err = s.services.nc.PublishRequest(rulesStatus, inbox, nil)
	}
	for err == nil && owned < s.log.Partitions() {
		var m *nats.Msg
		if m, err = sub.NextMsgWithContext(ctx); err != nil {
			break
		}
		var a statusAnswer
		if json.Unmarshal(m.Data, &a) != nil || len(m.Data) == 0 {
			if m.Header.Get("Status") == "503" {
				break // nobody runs rules
			}
			continue
		}
		lists = append(lists, a.Rules)
		owned += a.Owned
	}
	if err != nil && ctx.Err() == nil {
		s.logger.Warn("the processes that run rules cannot be asked", "err", err)
	}
	return rules.MergeStatus(lists...)
}
