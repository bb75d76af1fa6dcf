// Package replay runs rules over the log beside the engine: a backtest asks
// what a rule would have done with the events that are stored, a canary what it
// does with those that come, and a backfill delivers what it would have done.
//
// Evaluation is deterministic and costs next to nothing, so nothing is kept for
// any of the three: each is a follower of the log that evaluates again. Actions
// are suppressed, but for a backfill's.
package replay
