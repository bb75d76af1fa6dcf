// Package ruletest tries rules out without a server: it says what a rule and its
// actions make of a message, and runs the cases of *.rule_test.yaml files.
//
// It stands beside a message's way: the statement is compiled and evaluated by
// the code that serves, look-ups are answered from fixtures, and actions show
// what they would send and send nothing.
package ruletest
