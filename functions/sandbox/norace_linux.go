//go:build !race

package sandbox

const raced = 0
