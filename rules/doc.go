// Package rules holds topic rules and the engine that runs them.
//
// A message's way: the log has committed an event; the partition's worker,
// which follows the log, matches its topic once against a trie of all rules,
// evaluates the statement of each rule that matches, and offers the result to
// the rule's lanes, one an action. A lane that is full leaves the worker and
// follows the log by itself until it has caught up. The positions and counters
// of all lanes of a partition are saved together; after a restart each lane
// gets what it had not confirmed, and no more.
//
// A rule is a document in the shape of AWS IoT's TopicRulePayload with the
// rule's name. The Store keeps rules in a bucket; a rule that is replaced,
// disabled or deleted stays there, closed, until its lanes have drained.
package rules
