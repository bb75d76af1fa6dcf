package sandbox

import (
	"io"
	"net"
)

// Isolation says how far apart a program runs.
type Isolation string

const (
	// Full is everything Check looks for.
	Full Isolation = "full"
	// None is a program of Weir's own user, on the host's file system and network:
	// only its environment, descriptors, process group and limits are its own.
	None Isolation = "none"
)

// Network says what of the network a program sees.
type Network string

const (
	// Closed is a loopback of its own with nothing on it but Spec's listener.
	Closed Network = "none"
	// Open is the network of the machine.
	Open Network = "host"
)

// Paths inside a sandbox. Source: AWS Lambda developer guide, "Lambda
// environment variables" (LAMBDA_TASK_ROOT).
const (
	CodePath = "/var/task"
	TempPath = "/tmp"
)

// Spec is one program to run.
type Spec struct {
	Name      string   // for the control group: letters, digits, - and _
	Command   []string // [0] is a path inside the sandbox, or a name to look for in PATH of Env
	Env       []string // all of it; nothing is inherited. CODE_PATH and TEMP_PATH in braces stand for the folders' paths
	Code      string   // folder, read-only at CodePath; its files must be readable by everyone
	Mounts    []string // absolute paths of the host granted besides, read-only, at the same place
	Isolation Isolation
	Network   Network
	Memory    int64 // bytes, of the whole tree where control groups are there, of each process otherwise
	Temp      int64 // bytes of TempPath; they count as memory
	Processes int   // and threads
}

// Placeholders of Spec.Env and Spec.Command: the folders have other paths where
// there is no file system of its own.
const (
	CodePlace = "{CODE_PATH}"
	TempPlace = "{TEMP_PATH}"
	AddrPlace = "{ADDR}" // host:port of the listener, as the program reaches it
)

// Process is a running program with everything it started.
type Process struct {
	Listener net.Listener // reaches this program only; the caller's
	Output   io.ReadCloser
	PID      int

	process
}

// Finding is one wall and whether it stood.
type Finding struct {
	Wall   string `json:"wall"`
	OK     bool   `json:"ok"`
	Must   bool   `json:"must"` // without it a program is not isolated
	Detail string `json:"detail"`
}

// Report is what a host can isolate.
type Report struct {
	Findings []Finding `json:"findings"`
}

// Isolated reports whether every wall that must stand stood.
func (r *Report) Isolated() bool {
	for _, f := range r.Findings {
		if f.Must && !f.OK {
			return false
		}
	}
	return len(r.Findings) > 0
}

// Missing returns the walls that must stand and did not.
func (r *Report) Missing() []string {
	var out []string
	for _, f := range r.Findings {
		if f.Must && !f.OK {
			out = append(out, f.Wall+": "+f.Detail)
		}
	}
	return out
}
