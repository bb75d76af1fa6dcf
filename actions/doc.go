// Package actions takes the results of rules to their destinations.
//
// A message's way: the rules engine matches an event, evaluates the rule's
// statement and offers the result to one Lane per rule and action. The lane
// holds results in a bounded window, joins them into batches, and calls the
// action's Deliver. What fails is tried again with back-off; what cannot be
// reached stops the lane at its position behind a breaker; what is given up
// goes to the rule's error action, and where that fails too, to the stream
// DEAD, from where it can be delivered again. The lane's confirmed position
// and its counters say at any time what became of every match.
//
// A kind of action (republish, http, s3, …) lives in a sub-package and is one
// value of type Kind; actions/install lists them.
package actions
