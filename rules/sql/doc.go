// Package sql reads the rule language of AWS IoT Core: text to a statement
// tree, and the tree back to text.
//
// A message meets nothing of it: a statement is read once, when its rule is
// made. The lexer cuts the text into tokens that know their place; the reader
// checks them and writes what the MySQL grammar of sqlparser can read, with
// placeholders for all that is not MySQL; the converter makes the tree of both.
// rules/eval then compiles the tree into the program that messages run through.
// This package knows nothing of events, nor of what a function does: whether a
// name means anything is found out there, and reported with [At] as well.
package sql
