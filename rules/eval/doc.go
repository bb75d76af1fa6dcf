// Package eval compiles statements of the rule language and runs them over
// events.
//
// It stands between the log and the actions: the rules engine hands it each
// committed event whose topic fits a rule, and gets back the payload for the
// rule's actions, or nothing where WHERE is not true. Compile finds every
// mistake that can be found without an event. A Program is immutable and shared
// by all goroutines; what an evaluation needs to write lives in a Machine, one
// for each goroutine. Undefined is a value and not an error: Eval fails only
// where a look-up does or a budget is exceeded.
//
// Of a payload only the members are read that a rule names, in one pass over
// the bytes, and nothing leaves before the document has been validated to its
// end. The functions of the language stand in one table, Functions.
package eval
