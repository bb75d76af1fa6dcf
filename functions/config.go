package functions

import (
	"fmt"
	"maps"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/weir-iot/weir/functions/sandbox"
	"github.com/weir-iot/weir/internal/errs"
)

// Config is everything about a function but its name and code.
type Config struct {
	Runtime     string               `json:"runtime"` // "provided…", "nodejs…", "python…", "wasm", "lambda", "http"
	Handler     string               `json:"handler,omitempty"`
	Description string               `json:"description,omitempty"`
	Role        string               `json:"role,omitempty"`        // kept for AWS's tools, not used
	Timeout     int                  `json:"timeout"`               // seconds, 1 to 900; default 3
	Memory      int                  `json:"memory"`                // MiB, 64 to 10,240; default 128
	Temp        int                  `json:"temp"`                  // MiB of /tmp, which count as memory; default 64
	Concurrency int                  `json:"concurrency"`           // invocations at a time; default 10
	Env         map[string]string    `json:"environment,omitempty"` // 4 KiB in all
	Secrets     map[string]Reference `json:"secrets,omitempty"`     // more of Env, read when an environment starts
	Command     []string             `json:"command,omitempty"`     // instead of bootstrap; paths are relative to the code
	Isolation   sandbox.Isolation    `json:"isolation,omitempty"`   // default full
	Network     sandbox.Network      `json:"network,omitempty"`     // default none
	Mounts      []string             `json:"mounts,omitempty"`      // host paths that can be read
	URL         string               `json:"url,omitempty"`         // runtime http
	Target      string               `json:"target,omitempty"`      // runtime lambda: name or ARN at AWS

	Code     string `json:"code,omitempty"`     // SHA-256 of the package in hexadecimal digits; "": none
	CodeSize int64  `json:"codeSize,omitempty"` // bytes
}

// Reference says where a secret is: in a file or in a variable of Weir's own
// environment. Its value is stored nowhere and shown nowhere.
type Reference struct {
	File     string `json:"file,omitempty"` // absolute path
	Variable string `json:"env,omitempty"`
}

// runs reports whether the function is code on this machine.
func (c *Config) runs() bool { return c.Runtime != "http" && c.Runtime != "lambda" }

// process reports whether it is a program in a sandbox.
func (c *Config) process() bool { return c.runs() && c.Runtime != "wasm" }

// Limits of a function. Source: AWS Lambda quotas.
const (
	maxEnv       = 4 << 10
	MaxPackage   = 50 << 20  // bytes, zipped
	maxUnpacked  = 250 << 20 // bytes
	MaxPayload   = 6 << 20   // bytes, of a request that is answered
	maxAnswer    = 6<<20 + 100
	MaxEvent     = 256 << 10 // bytes, of a request that is queued
	maxTimeout   = 900
	maxMemory    = 10240
	manyVersions = 50
)

// reserved are variables the runtime sets. Source: AWS Lambda developer guide,
// "Defined runtime environment variables".
var reserved = []string{
	"_HANDLER", "_X_AMZN_TRACE_ID", "AWS_DEFAULT_REGION", "AWS_REGION", "AWS_EXECUTION_ENV", "AWS_LAMBDA_FUNCTION_NAME",
	"AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "AWS_LAMBDA_FUNCTION_VERSION", "AWS_LAMBDA_INITIALIZATION_TYPE", "AWS_LAMBDA_LOG_GROUP_NAME",
	"AWS_LAMBDA_LOG_STREAM_NAME", "AWS_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
	"AWS_LAMBDA_RUNTIME_API", "LAMBDA_TASK_ROOT", "LAMBDA_RUNTIME_DIR",
}

var validVariable = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_]*$`)

// complete fills in defaults and checks c.
func (c *Config) complete() error {
	bad := func(format string, args ...any) error {
		return errs.Errorf("functions.Config", errs.Invalid, format, args...)
	}
	for _, d := range []struct {
		field         *int
		deflt, lo, hi int
		name          string
	}{
		{&c.Timeout, 3, 1, maxTimeout, "timeout"}, {&c.Memory, 128, 64, maxMemory, "memory"},
		{&c.Temp, 64, 1, maxMemory, "temp"}, {&c.Concurrency, 10, 1, 1000, "concurrency"},
	} {
		if *d.field == 0 {
			*d.field = d.deflt
		}
		if *d.field < d.lo || *d.field > d.hi {
			return bad("%s of %d: must be %d to %d", d.name, *d.field, d.lo, d.hi)
		}
	}
	if c.Isolation == "" {
		c.Isolation = sandbox.Full
	}
	if c.Network == "" {
		c.Network = sandbox.Closed
	}
	switch f := family(c.Runtime); f {
	case "provided", "wasm":
	case "nodejs", "python":
		file, name, ok := cutLast(c.Handler, ".")
		if !ok || file == "" || name == "" {
			return bad("handler %q: expected file.function, such as index.handler", c.Handler)
		}
	case "http":
		u, err := url.Parse(c.URL)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || len(c.URL) > 2000 {
			return bad("url: the runtime http needs http://host/path or https://host/path without credentials")
		}
	case "lambda":
		if !reference.MatchString(c.Target) {
			return bad("target: the runtime lambda needs the name or ARN of a function at AWS")
		}
	default:
		return bad("runtime %q: expected provided, nodejs…, python…, wasm, http or lambda", c.Runtime)
	}
	if c.URL != "" && c.Runtime != "http" || c.Target != "" && c.Runtime != "lambda" {
		return bad("url is for the runtime http and target for the runtime lambda only")
	}
	if c.runs() == (c.Code == "") {
		if c.runs() {
			return bad("the runtime %s needs code", c.Runtime)
		}
		return bad("the runtime %s takes no code", c.Runtime)
	}
	if !c.process() && (len(c.Command) > 0 || c.Isolation != sandbox.Full || c.Network != sandbox.Closed) {
		return bad("command, isolation and network are for programs, not for the runtime %s", c.Runtime)
	}
	if !c.runs() && len(c.Mounts) > 0 {
		return bad("mounts are for code that runs here, not for the runtime %s", c.Runtime)
	}
	if len(c.Command) > 0 && family(c.Runtime) != "provided" {
		return bad("command is for the runtime provided")
	}
	if c.Isolation != sandbox.Full && c.Isolation != sandbox.None {
		return bad("isolation %q: expected full or none", c.Isolation)
	}
	if c.Network != sandbox.Closed && c.Network != sandbox.Open {
		return bad("network %q: expected none or host", c.Network)
	}
	for _, m := range c.Mounts {
		if !filepath.IsAbs(m) || filepath.Clean(m) != m || m == "/" || slices.Contains([]string{"/proc", "/dev", "/tmp", "/var/task", "/sys"}, m) {
			return bad("mount %q: expected an absolute path of this machine other than the system's own", m)
		}
	}
	size := 0
	for _, name := range slices.Sorted(maps.Keys(c.Env)) {
		if _, twice := c.Secrets[name]; twice {
			return bad("the variable %s is given twice, as text and as a secret", name)
		}
		size += len(name) + len(c.Env[name])
		if strings.ContainsRune(c.Env[name], 0) {
			return bad("the variable %s holds a NUL", name)
		}
	}
	if size > maxEnv {
		return bad("the environment has %d bytes, at most %d are taken", size, maxEnv)
	}
	for name, r := range c.Secrets {
		if (r.File == "") == (r.Variable == "") || r.File != "" && !filepath.IsAbs(r.File) {
			return bad("secret %s: expected file with an absolute path, or env with a variable of Weir's environment", name)
		}
	}
	var taken []string
	for _, name := range slices.Concat(slices.Collect(maps.Keys(c.Env)), slices.Collect(maps.Keys(c.Secrets))) {
		if !validVariable.MatchString(name) {
			return bad("%q is no name of a variable", name)
		}
		if slices.Contains(reserved, name) {
			taken = append(taken, name)
		}
	}
	if len(taken) > 0 {
		slices.Sort(taken)
		return bad("the runtime sets these variables itself: %s", strings.Join(taken, ", "))
	}
	for _, text := range []string{c.Handler, c.Description, c.Role, strings.Join(c.Command, "")} {
		if len(text) > 2048 || strings.ContainsAny(text, "\x00") {
			return bad("handler, description, role and command may have 2048 bytes each, and no NUL")
		}
	}
	return nil
}

// command returns the program and its arguments as the sandbox takes them.
func (c *Config) command() []string {
	switch family(c.Runtime) {
	case "nodejs":
		return []string{"node", "-e", nodeGuest}
	case "python":
		return []string{"python3", "-c", pythonGuest}
	}
	if len(c.Command) == 0 {
		return []string{sandbox.CodePlace + "/bootstrap"}
	}
	out := slices.Clone(c.Command)
	if strings.Contains(out[0], "/") && !path.IsAbs(out[0]) {
		out[0] = sandbox.CodePlace + "/" + path.Clean(out[0])
	}
	return out
}

func cutLast(s, sep string) (before, after string, ok bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// Isolates says in whole sentences what this function is kept from, as the host
// is.
func (c *Config) isolates(r *sandbox.Report) (warnings []string) {
	if c.Runtime == "wasm" {
		for _, m := range c.Mounts {
			warnings = append(warnings, fmt.Sprintf("mount %s: the module can read all that Weir can read there", m))
		}
	}
	if !c.process() {
		return warnings
	}
	if c.Isolation == sandbox.None {
		return []string{"isolation none: the program runs as Weir's own user and can read Weir's data folder, its keys and every function's events"}
	}
	for _, m := range r.Missing() {
		warnings = append(warnings, "not isolated: "+m)
	}
	if c.Network == sandbox.Open {
		warnings = append(warnings, "network host: the program reaches everything this machine reaches, its loopback ports too")
	}
	for _, m := range c.Mounts {
		warnings = append(warnings, fmt.Sprintf("mount %s: the program can read what every user can read there", m))
	}
	return warnings
}
