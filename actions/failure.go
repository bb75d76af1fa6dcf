package actions

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// failureDocument is what an error action receives.
// Source: AWS IoT developer guide, "Error handling (error action)".
type failureDocument struct {
	RuleName              string          `json:"ruleName"`
	Topic                 string          `json:"topic"`
	CloudwatchTraceID     string          `json:"cloudwatchTraceId"`
	ClientID              string          `json:"clientId"`
	Base64OriginalPayload []byte          `json:"base64OriginalPayload"`
	Failures              []failureOfKind `json:"failures"`
}

type failureOfKind struct {
	FailedAction   string `json:"failedAction"`
	FailedResource string `json:"failedResource"`
	ErrorMessage   string `json:"errorMessage"`
}

// document returns the failure document of one result. The trace id is the
// message id, as traceid() gives it.
func (l *Lane) document(f failure) ([]byte, error) {
	e := f.it.res.Event
	d := failureDocument{
		RuleName: l.o.Rule, Topic: string(e.Topic), CloudwatchTraceID: f.it.res.ID.String(),
		ClientID: e.ClientID, Base64OriginalPayload: e.Payload,
		Failures: []failureOfKind{{FailedAction: failedAction(l.o.Kind), FailedResource: l.o.Spec.Resource, ErrorMessage: errorText(f.err)}},
	}
	if d.Base64OriginalPayload == nil {
		d.Base64OriginalPayload = []byte{}
	}
	if d.ClientID == "" {
		d.ClientID = "n/a" // as clientid() has it
	}
	if f.it.fail != nil {
		d.Failures[0].FailedAction, d.Failures[0].FailedResource = "RuleEvaluation", l.o.Rule
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(d); err != nil {
		return nil, err
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

// failedAction is AWS's name of an action in a failure document: S3Action.
func failedAction(kind string) string {
	if kind == "" {
		return "Action"
	}
	return strings.ToUpper(kind[:1]) + kind[1:] + "Action"
}

func errorText(err error) string {
	s := err.Error()
	if len(s) > maxErrorText {
		s = strings.ToValidUTF8(s[:maxErrorText], "") + "…"
	}
	return s
}

// errorRest is how long an error action that could not be reached is left alone;
// what fails meanwhile goes to DEAD at once.
const errorRest = 10 * time.Second

// fail settles results that were given up: by the error action, else in DEAD.
// It returns early where the lane ends; what is not settled comes again.
func (l *Lane) fail(list []failure) {
	now := l.o.Now()
	l.mu.Lock()
	for _, f := range list {
		l.lastErr, l.lastFail = errorText(f.err), now
	}
	asked := l.o.ErrorAction != nil && !now.Before(l.errDown)
	l.mu.Unlock()
	for _, f := range list {
		if f.it.fail != nil {
			l.attempt(f.it, fmt.Errorf("evaluating the statement failed: %w", f.err))
		} else if f.late {
			l.attempt(f.it, f.err)
		}
	}
	why := map[*item]error{}
	left := list
	if asked {
		var ended bool
		if left, ended = l.errorAction(list, why); ended {
			return
		}
	}
	for _, f := range left {
		letter := &Letter{
			Rule: l.o.Rule, Index: l.o.Index, Kind: l.o.Kind, Result: &f.it.res, Evaluation: f.it.fail != nil,
			Error: errorText(f.err), Tries: f.it.tries, Time: l.o.Now().UTC(),
		}
		if err := why[f.it]; err != nil {
			letter.ErrorAction = errorText(err)
		}
		for n := 0; ; n++ {
			err := l.o.Dead.Put(l.hard, letter)
			if err == nil {
				l.settle(f.it, dead)
				break
			}
			l.note(err)
			if n == 0 {
				l.o.Logger.Error("a dead letter could not be stored; trying again", "rule", l.o.Rule, "action", l.o.Index, "message", f.it.res.ID.String(), "error", err)
			}
			if !l.pause(l.backoff(n)) {
				return
			}
		}
	}
}

// maxHops is how many republish actions may lie behind a message whose failure
// an error action is told of. It is one more than the engine evaluates: a loop
// through an error action ends in DEAD.
const maxHops = 11

// errorAction tries the error action and returns what it did not take. why
// says why not. ended: the lane has ended in between.
func (l *Lane) errorAction(list []failure, why map[*item]error) (left []failure, ended bool) {
	spec := l.o.ErrorSpec
	for len(list) > 0 {
		var group []failure
		var batch []*item
		size := 0
		for len(list) > 0 && len(group) < spec.BatchMax {
			f := list[0]
			if f.it.res.Event.Hops > maxHops {
				list, left = list[1:], append(left, f)
				continue
			}
			doc, err := l.document(f)
			if err != nil {
				why[f.it] = err
				list, left = list[1:], append(left, f)
				continue
			}
			if size += len(doc); len(group) > 0 && size > spec.BatchBytes {
				break
			}
			list, group = list[1:], append(group, f)
			batch = append(batch, &item{res: Result{ID: f.it.res.ID, Rule: l.o.Rule, Event: f.it.res.Event, Payload: doc}})
		}
		lost, ended := l.errorBatch(group, batch, why)
		if ended {
			return nil, true
		}
		left = append(left, lost...)
	}
	return left, false
}

func (l *Lane) errorBatch(group []failure, batch []*item, why map[*item]error) (left []failure, ended bool) {
	for tries := 1; len(batch) > 0; tries++ {
		errs := l.try(l.o.ErrorAction, l.o.ErrorSpec.Timeout, batch)
		var wait time.Duration
		restG, restB := group[:0:0], batch[:0:0]
		silent := true
		for i, err := range errs {
			if err == nil {
				silent = false
				l.settle(group[i].it, errorDelivered)
				continue
			}
			told := fmt.Errorf("error action: %w", err)
			l.note(told)
			l.attempt(group[i].it, told)
			why[group[i].it] = err
			silent = silent && classOf(err) == unreachable
			if classOf(err) == permanent || tries >= l.o.ErrorSpec.MaxTries {
				left = append(left, group[i])
				continue
			}
			wait = max(wait, l.backoff(tries-1), min(retryAfter(err), l.o.BackoffMax))
			restG, restB = append(restG, group[i]), append(restB, batch[i])
		}
		if silent && tries >= l.o.ErrorSpec.MaxTries {
			l.mu.Lock()
			l.errDown = l.o.Now().Add(errorRest)
			l.mu.Unlock()
		}
		group, batch = restG, restB
		if len(batch) > 0 && !l.pause(wait) {
			return nil, true // not given up: it comes again
		}
	}
	return left, false
}
