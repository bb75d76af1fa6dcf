//go:build !linux

package sandbox

import (
	"context"
	"net"

	"github.com/weir-iot/weir/internal/errs"
)

// Host makes no sandboxes here: they need Linux.
type Host struct{}

type process struct{}

// Main returns.
func Main() {}

// NewHost returns a Host that refuses.
func NewHost(string, []string) (*Host, error) { return &Host{}, nil }

// Run waits for ctx to end.
func (*Host) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Start refuses: errs.NotImplemented.
func (*Host) Start(context.Context, Spec) (*Process, error) {
	return nil, errs.Errorf("sandbox.Start", errs.NotImplemented, "programs run on Linux only; a function of runtime wasm, http or lambda runs here too")
}

// Prepare does nothing.
func (*Host) Prepare() {}

// Check reports that nothing can be isolated.
func (*Host) Check(context.Context) *Report {
	return &Report{Findings: []Finding{{Wall: "namespaces", Must: true, Detail: "only Linux has them"}}}
}

// Assume does nothing.
func (*Host) Assume(*Report) {}

// Users reports whether each program has a user of its own.
func (*Host) Users() bool { return false }

func (*Process) Kill()                 {}
func (*Process) Done() <-chan struct{} { return nil }
func (*Process) Exit() string          { return "" }
func (*Process) OutOfMemory() bool     { return false }
func (*Process) Peak() int64           { return 0 }
func (*Process) Owns(net.Conn) bool    { return false }
