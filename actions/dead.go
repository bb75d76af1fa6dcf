package actions

import "time"

// Letter is a dead letter: a result that neither its action nor the rule's
// error action has taken.
type Letter struct {
	Seq         uint64    // position in the stream DEAD; 0: not stored yet
	Rule        string    // by name
	Index       int       // of the action in the rule
	Kind        string    // of the action
	Result      *Result   // the recorded result with its original event
	Evaluation  bool      // evaluating the statement failed: there is no payload
	Error       string    // of the last try
	ErrorAction string    // why the error action did not take it; empty: there is none, or it was not asked
	Tries       int       // answered failures
	Time        time.Time // when it was given up
}
