//go:build race

package sandbox

// raced is how much more memory this binary needs with the race detector in it,
// of which a helper and the probe are made too.
const raced = 1 << 30
