//go:build !race

package sql

const raceFactor = 1
