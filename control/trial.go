package control

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/rules/replay"
)

// Trials runs rules over the log beside the engine.
type Trials interface {
	// Backtest calls fn for the lines of the answer: progress, outcomes, and the
	// report as the last.
	Backtest(ctx context.Context, q BacktestRequest, fn func(*BacktestLine) error) error

	// StartCanary compares the rule of a document with the one that runs under its
	// name. Errors: Invalid, NotFound (no such rule runs), Exists.
	StartCanary(ctx context.Context, q RuleText) (*replay.Job, error)
	Canaries(ctx context.Context) ([]replay.Job, error)
	Canary(ctx context.Context, rule string) (*replay.Job, error)
	// Promote puts the version under trial in the place of the current one.
	Promote(ctx context.Context, rule string) (*Applied, error)
	Drop(ctx context.Context, rule string) error

	StartBackfill(ctx context.Context, q BackfillRequest) (*replay.Job, error)
	Backfills(ctx context.Context) ([]replay.Job, error)
	Backfill(ctx context.Context, id string) (*replay.Job, error)
	StopBackfill(ctx context.Context, id string) (*replay.Job, error)
	ResumeBackfill(ctx context.Context, id string) (*replay.Job, error)
	DeleteBackfill(ctx context.Context, id string) error
}

// RuleText names a rule: by its document, or by the name of one that is stored.
type RuleText struct {
	File    string `json:"file,omitempty"`     // what errors call the document
	Content string `json:"content,omitempty"`  // JSON or YAML
	Name    string `json:"ruleName,omitempty"` // without content: of a stored rule; with it: which of the documents
}

// BacktestRequest says what is tried on which events.
type BacktestRequest struct {
	RuleText
	Against bool      `json:"against,omitempty"` // compare with the rule of that name as it is stored
	Since   time.Time `json:"since,omitzero"`
	Until   time.Time `json:"until,omitzero"`
	Limit   uint64    `json:"limit,omitempty"`   // events that reach the rule; 0: all
	Samples int       `json:"samples,omitempty"` // outcomes told, of each verdict; -1: all
	Lookups bool      `json:"lookups,omitempty"` // call what the statement calls
}

// BacktestLine is one line of a backtest's answer; one field is set.
type BacktestLine struct {
	Progress *replay.Progress `json:"progress,omitempty"`
	Outcome  *replay.Sample   `json:"outcome,omitempty"`
	Report   *BacktestReport  `json:"report,omitempty"` // the last line
	Error    *ErrorInfo       `json:"error,omitempty"`  // the last line
}

// BacktestReport is what a backtest found.
type BacktestReport struct {
	replay.Report
	Rule    string `json:"ruleName"`
	Version int    `json:"version,omitempty"` // compared with; 0: with nothing
}

// BackfillRequest says what is delivered.
type BackfillRequest struct {
	RuleText
	Since time.Time `json:"since,omitzero"`
	Until time.Time `json:"until,omitzero"`
	Rate  float64   `json:"rate,omitempty"` // results a second; 0: as fast as they are taken
	// Again delivers also what the stored rule of the same name has handled by
	// itself; else the backfill ends where that rule began.
	Again bool `json:"again,omitempty"`
}

// Explainer tells what became of events, and how rules lead to rules.
type Explainer interface {
	// Explain tells of the events a query names, oldest first. Errors: Invalid,
	// NotFound.
	Explain(ctx context.Context, q ExplainQuery) ([]Explained, error)
	Graph(ctx context.Context) (*Graph, error)
}

// ExplainQuery names events: by id, by place, or the last of a topic.
type ExplainQuery struct {
	ID    string // a message id, as traceid() gives it, or partition:sequence
	Topic string // a topic filter
	Last  int    // with Topic: how many
}

// Explained is one event and what the rules made of it.
type Explained struct {
	Event TailLine        `json:"event"`
	Rules []ExplainedRule `json:"rules"`
	Near  []NearRule      `json:"near,omitempty"` // rules whose FROM just misses the topic
	Note  string          `json:"note,omitempty"` // what holds for all rules
}

// ExplainedRule is one rule whose FROM matches.
type ExplainedRule struct {
	Name       string            `json:"ruleName"`
	Version    int               `json:"version"`
	Acts       bool              `json:"acts"`
	Text       string            `json:"text"`               // for people: topic, SET, WHERE with every operand, result
	Note       string            `json:"note,omitempty"`     // why the rule, as it is now, did not handle the event
	LookedUp   bool              `json:"lookedUp,omitempty"` // the statement calls out: what it got is recomputed
	Deliveries []ExplainedAction `json:"actions,omitempty"`
}

// ExplainedAction is what became of a result at one action.
type ExplainedAction struct {
	Action   string             `json:"action"`
	State    string             `json:"state"` // "delivered", "delivered by the error action", "dead", "pending", "waiting", "unknown"
	Detail   string             `json:"detail,omitempty"`
	Attempts []ExplainedAttempt `json:"attempts,omitempty"` // that failed
}

// ExplainedAttempt is one try that failed.
type ExplainedAttempt struct {
	Time  time.Time `json:"time"`
	Error string    `json:"error"`
}

// NearRule is a rule whose FROM just misses.
type NearRule struct {
	Name   string `json:"ruleName"`
	Filter string `json:"filter"`
	Why    string `json:"why"`
}

// Graph is how topics lead to rules, rules to actions, and republish actions to
// topics.
type Graph struct {
	Rules []GraphRule `json:"rules"`
	Loops [][]string  `json:"loops,omitempty"` // names of rules that lead to one another, each loop once
}

// GraphRule is one rule of the graph.
type GraphRule struct {
	Name    string       `json:"ruleName"`
	Enabled bool         `json:"enabled"`
	From    string       `json:"from,omitempty"` // topic filter; "": Basic Ingest only
	Where   bool         `json:"where"`          // it does not act on every message
	Actions []GraphEdge  `json:"actions"`
	Error   []GraphEdge  `json:"errorAction,omitempty"`
	Leads   []GraphReach `json:"leads,omitempty"` // rules its republish actions reach
}

// GraphEdge is one action.
type GraphEdge struct {
	Action string `json:"action"`
	Target string `json:"target,omitempty"` // republish: the topic; others: the resource where it is fixed
}

// GraphReach is a rule that a republish action reaches.
type GraphReach struct {
	Rule    string `json:"ruleName"`
	Certain bool   `json:"certain"` // the topic is fixed; else it may be reached
}

func decode(r *http.Request, into any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return errs.Errorf("control", errs.Invalid, "the request is not as expected: %v", err)
	}
	return nil
}

func (s *Server) backtest(w http.ResponseWriter, r *http.Request) error {
	var q BacktestRequest
	if err := decode(r, &q); err != nil {
		return err
	}
	if s.tails.Add(1) > maxTails {
		s.tails.Add(-1)
		return errs.Errorf("control.backtest", errs.Quota, "%d readers are open, no more are served at a time", maxTails)
	}
	defer s.tails.Add(-1)
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	out := newLines(w, cancel)
	defer out.stop()
	err := s.o.Trials.Backtest(ctx, q, func(l *BacktestLine) error { return out.write(l) })
	if err != nil && ctx.Err() == nil {
		return out.fail(err)
	}
	return nil
}

// answer writes v, or returns err.
func answer[T any](w http.ResponseWriter, v T, err error) error {
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, v)
	return nil
}

// done answers an operation that has nothing to say.
func done(w http.ResponseWriter, err error) error {
	if err == nil {
		w.WriteHeader(http.StatusNoContent)
	}
	return err
}

type jobList struct {
	Jobs []replay.Job `json:"jobs"`
}

func listed(list []replay.Job) jobList {
	if list == nil {
		list = []replay.Job{}
	}
	return jobList{list}
}

func (s *Server) listCanaries(w http.ResponseWriter, r *http.Request) error {
	list, err := s.o.Trials.Canaries(r.Context())
	return answer(w, listed(list), err)
}

func (s *Server) startCanary(w http.ResponseWriter, r *http.Request) error {
	var q RuleText
	if err := decode(r, &q); err != nil {
		return err
	}
	j, err := s.o.Trials.StartCanary(r.Context(), q)
	return answer(w, j, err)
}

func (s *Server) getCanary(w http.ResponseWriter, r *http.Request) error {
	j, err := s.o.Trials.Canary(r.Context(), r.PathValue("rule"))
	return answer(w, j, err)
}

func (s *Server) promoteCanary(w http.ResponseWriter, r *http.Request) error {
	a, err := s.o.Trials.Promote(r.Context(), r.PathValue("rule"))
	return answer(w, a, err)
}

func (s *Server) dropCanary(w http.ResponseWriter, r *http.Request) error {
	return done(w, s.o.Trials.Drop(r.Context(), r.PathValue("rule")))
}

func (s *Server) listBackfills(w http.ResponseWriter, r *http.Request) error {
	list, err := s.o.Trials.Backfills(r.Context())
	return answer(w, listed(list), err)
}

func (s *Server) startBackfill(w http.ResponseWriter, r *http.Request) error {
	var q BackfillRequest
	if err := decode(r, &q); err != nil {
		return err
	}
	j, err := s.o.Trials.StartBackfill(r.Context(), q)
	return answer(w, j, err)
}

func (s *Server) getBackfill(w http.ResponseWriter, r *http.Request) error {
	j, err := s.o.Trials.Backfill(r.Context(), r.PathValue("id"))
	return answer(w, j, err)
}

func (s *Server) stopBackfill(w http.ResponseWriter, r *http.Request) error {
	j, err := s.o.Trials.StopBackfill(r.Context(), r.PathValue("id"))
	return answer(w, j, err)
}

func (s *Server) resumeBackfill(w http.ResponseWriter, r *http.Request) error {
	j, err := s.o.Trials.ResumeBackfill(r.Context(), r.PathValue("id"))
	return answer(w, j, err)
}

func (s *Server) deleteBackfill(w http.ResponseWriter, r *http.Request) error {
	return done(w, s.o.Trials.DeleteBackfill(r.Context(), r.PathValue("id")))
}

// maxExplained bounds the events of one answer.
const maxExplained = 100

func (s *Server) explain(w http.ResponseWriter, r *http.Request) error {
	const op = "control.explain"
	q, err := query(r, "id", "topic", "last")
	if err != nil {
		return err
	}
	last, err := uintParam(q, "last", 1, maxExplained)
	if err != nil {
		return err
	}
	e := ExplainQuery{ID: q.Get("id"), Topic: q.Get("topic"), Last: int(last)}
	if (e.ID == "") == (e.Topic == "") {
		return errs.Errorf(op, errs.Invalid, "say which events: id or topic, one of them")
	}
	list, err := s.o.Explainer.Explain(r.Context(), e)
	return answer(w, struct {
		Events []Explained `json:"events"`
	}{list}, err)
}

func (s *Server) graph(w http.ResponseWriter, r *http.Request) error {
	g, err := s.o.Explainer.Graph(r.Context())
	return answer(w, g, err)
}

// Backtest runs a backtest; fn is called for each line but an error's.
func (c *Client) Backtest(ctx context.Context, q BacktestRequest, fn func(l *BacktestLine, raw []byte) error) error {
	body, err := json.Marshal(q)
	if err != nil {
		return err
	}
	resp, err := c.do(ctx, "POST", "/weir/v1/backtest", nil, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	s := bufio.NewScanner(resp.Body)
	s.Buffer(nil, 32<<20)
	for s.Scan() {
		var l BacktestLine
		if err := json.Unmarshal(s.Bytes(), &l); err != nil {
			return fmt.Errorf("a line of the backtest is not JSON: %w", err)
		}
		if l.Error != nil {
			return &RemoteError{http.StatusOK, *l.Error}
		}
		if err := fn(&l, s.Bytes()); err != nil {
			return err
		}
		if l.Report != nil {
			return nil
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("the backtest broke off: %w", err)
	}
	return fmt.Errorf("the backtest broke off: Weir has stopped")
}

// post calls an operation with a JSON body.
func (c *Client) post(ctx context.Context, path string, q, into any) error {
	body, err := json.Marshal(q)
	if err != nil {
		return err
	}
	return c.call(ctx, "POST", path, nil, body, into)
}

// StartCanary starts a canary; see Trials.
func (c *Client) StartCanary(ctx context.Context, q RuleText) (*replay.Job, error) {
	var j replay.Job
	return &j, c.post(ctx, "/weir/v1/canaries", q, &j)
}

// Canaries lists the canaries.
func (c *Client) Canaries(ctx context.Context) ([]replay.Job, error) {
	var l jobList
	err := c.call(ctx, "GET", "/weir/v1/canaries", nil, nil, &l)
	return l.Jobs, err
}

// Canary returns the canary of a rule.
func (c *Client) Canary(ctx context.Context, rule string) (*replay.Job, error) {
	var j replay.Job
	return &j, c.call(ctx, "GET", "/weir/v1/canaries/"+url.PathEscape(rule), nil, nil, &j)
}

// Promote puts a canary's version in the place of the current one.
func (c *Client) Promote(ctx context.Context, rule string) (*Applied, error) {
	var a Applied
	return &a, c.call(ctx, "POST", "/weir/v1/canaries/"+url.PathEscape(rule)+"/promote", nil, nil, &a)
}

// Drop ends the canary of a rule.
func (c *Client) Drop(ctx context.Context, rule string) error {
	return c.call(ctx, "DELETE", "/weir/v1/canaries/"+url.PathEscape(rule), nil, nil, nil)
}

// StartBackfill starts a backfill; see Trials.
func (c *Client) StartBackfill(ctx context.Context, q BackfillRequest) (*replay.Job, error) {
	var j replay.Job
	return &j, c.post(ctx, "/weir/v1/backfills", q, &j)
}

// Backfills lists the backfills.
func (c *Client) Backfills(ctx context.Context) ([]replay.Job, error) {
	var l jobList
	err := c.call(ctx, "GET", "/weir/v1/backfills", nil, nil, &l)
	return l.Jobs, err
}

// Backfill returns a backfill.
func (c *Client) Backfill(ctx context.Context, id string) (*replay.Job, error) {
	var j replay.Job
	return &j, c.call(ctx, "GET", "/weir/v1/backfills/"+url.PathEscape(id), nil, nil, &j)
}

// ChangeBackfill does what verb says, "stop" or "resume".
func (c *Client) ChangeBackfill(ctx context.Context, id, verb string) (*replay.Job, error) {
	var j replay.Job
	return &j, c.call(ctx, "POST", "/weir/v1/backfills/"+url.PathEscape(id)+"/"+verb, nil, nil, &j)
}

// DeleteBackfill forgets a backfill that does not run.
func (c *Client) DeleteBackfill(ctx context.Context, id string) error {
	return c.call(ctx, "DELETE", "/weir/v1/backfills/"+url.PathEscape(id), nil, nil, nil)
}

// Explain tells what became of events.
func (c *Client) Explain(ctx context.Context, q ExplainQuery) ([]Explained, error) {
	v := url.Values{}
	if q.ID != "" {
		v.Set("id", q.ID)
	} else {
		v.Set("topic", q.Topic)
		v.Set("last", fmt.Sprint(q.Last))
	}
	var out struct{ Events []Explained }
	err := c.call(ctx, "GET", "/weir/v1/explain", v, nil, &out)
	return out.Events, err
}

// Graph returns the graph of the rules.
func (c *Client) Graph(ctx context.Context) (*Graph, error) {
	var g Graph
	return &g, c.call(ctx, "GET", "/weir/v1/graph", nil, nil, &g)
}
