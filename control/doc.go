// Package control is the HTTP API of a running Weir, for its owner: rules,
// status, reading the log, dead letters. The command line uses it, and the
// console will.
//
// Messages do not come in by it; a tail follows the log like any other
// follower and writes what it reads to the caller. The services behind it are
// the small interfaces of this package, joined in internal/server.
package control
