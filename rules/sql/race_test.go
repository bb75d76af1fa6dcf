//go:build race

package sql

// raceFactor is how much slower the race detector may make a computation.
const raceFactor = 4
