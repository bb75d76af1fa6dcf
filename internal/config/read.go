package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"
	"strings"

	"github.com/weir-iot/weir/internal/strictyaml"
	"github.com/weir-iot/weir/internal/suggest"
)

// maxFile bounds a configuration file: it is read whole, and before anything
// else has been checked.
const maxFile = 1 << 20

// Error is a mistake in a configuration file, or in the environment: then File
// names the variable and Line is 0.
type Error = strictyaml.Error

// Load reads the file at path over the defaults, then the environment over
// both, and validates the whole. An empty path means no file. environ is as
// os.Environ gives it. Every mistake found is reported: the error joins
// *Error values where more than one was made. checks find what Validate cannot:
// their Mistakes are shown at their place.
func Load(path string, dev bool, environ []string, checks ...func(*Config) error) (*Config, error) {
	c := Default(dev)
	r := &reader{c: c, name: "configuration", checks: checks}
	if path != "" {
		src, err := readFile(path)
		if err != nil {
			return nil, err
		}
		r.name = path
		r.parse(src)
	}
	r.environment(environ)
	r.validate()
	return r.done()
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("%s: larger than %s: not a configuration file", path, FormatSize(maxFile))
	}
	return b, nil
}

// Parse reads src over the defaults. name is what errors call the file.
func Parse(name string, src []byte, dev bool) (*Config, error) {
	r := &reader{c: Default(dev), name: name}
	r.parse(src)
	r.validate()
	return r.done()
}

type reader struct {
	c        *Config
	name     string
	at       map[string]*strictyaml.Node // each key's value
	mistakes []error
	checks   []func(*Config) error
}

func (r *reader) done() (*Config, error) {
	if len(r.mistakes) > 0 {
		return nil, errors.Join(r.mistakes...)
	}
	return r.c, nil
}

func (r *reader) validate() {
	for _, check := range append([]func(*Config) error{(*Config).Validate}, r.checks...) {
		if len(r.mistakes) > 0 {
			return
		}
		err := check(r.c)
		var ke *keyError
		switch {
		case err == nil:
		case errors.As(err, &ke) && r.at[ke.key] != nil:
			r.mistakes = append(r.mistakes, r.at[ke.key].Errorf("", "%v", err))
		default:
			r.mistakes = append(r.mistakes, &Error{File: r.name, Msg: err.Error()})
		}
	}
}

func (r *reader) parse(src []byte) {
	root, err := strictyaml.Parse(r.name, src)
	if err != nil {
		r.mistakes = append(r.mistakes, err)
		return
	}
	r.at = map[string]*strictyaml.Node{}
	r.keys("", root)
}

// keys reads n, which stands at path, a group of keys ("" or "events").
func (r *reader) keys(path string, n *strictyaml.Node) {
	if n.Kind == strictyaml.Null {
		return
	}
	if n.Kind != strictyaml.Map {
		where := "the file"
		if path != "" {
			where = path
		}
		r.fail(n, "", "%s must hold keys and values", where)
		return
	}
	for _, f := range n.Fields {
		full := f.Name
		if path != "" {
			full = path + "." + f.Name
		}
		switch k := Lookup(full); {
		case group(full):
			r.keys(full, f.Value)
		case k == nil:
			r.mistakes = append(r.mistakes, n.KeyErrorf(f.Name, hintKey(path, f.Name), "unknown key %q", full))
		default:
			r.value(k, f.Value)
		}
	}
}

func (r *reader) value(k *Key, n *strictyaml.Node) {
	text := n.Text
	switch n.Kind {
	case strictyaml.Null:
		hint := "leave the key out for its default"
		if k.Default != "" {
			hint += ", " + k.Default
		}
		r.fail(n, hint, "%s has no value", k.Path)
		return
	case strictyaml.Map:
		r.fail(n, "", "%s: expected %s, found keys below it", k.Path, k.Type)
		return
	case strictyaml.List:
		if !k.List {
			r.fail(n, "", "%s: expected %s, found a list", k.Path, k.Type)
			return
		}
		parts := make([]string, len(n.Items))
		for i, item := range n.Items {
			if item.Kind == strictyaml.List || item.Kind == strictyaml.Map {
				r.fail(item, "", "%s: expected a text in the list", k.Path)
				return
			}
			parts[i] = item.Text
		}
		text = strings.Join(parts, ",")
	}
	r.at[k.Path] = n
	if err := k.set(r.c, text); err != nil {
		r.fail(n, hintValue(err), "%s: %v", k.Path, err)
	}
}

func (r *reader) fail(n *strictyaml.Node, hint, format string, args ...any) {
	r.mistakes = append(r.mistakes, n.Errorf(hint, format, args...))
}

// group reports whether path is the parent of keys.
func group(path string) bool {
	return slices.ContainsFunc(Keys, func(k Key) bool { return strings.HasPrefix(k.Path, path+".") })
}

func hintKey(parent, name string) string {
	var siblings, all []string
	for _, k := range Keys {
		all = append(all, k.Path)
		rest, ok := strings.CutPrefix(k.Path, parent+".")
		if parent == "" {
			rest, ok = k.Path, true
		}
		if ok {
			first, _, _ := strings.Cut(rest, ".")
			if !slices.Contains(siblings, first) {
				siblings = append(siblings, first)
			}
		}
	}
	if near, ok := suggest.Nearest(name, siblings); ok {
		return fmt.Sprintf("did you mean %s?", near)
	}
	// The right name in the wrong group: max_bytes at the top, say.
	for _, p := range all {
		if strings.HasSuffix(p, "."+name) {
			return fmt.Sprintf("did you mean %s?", p)
		}
	}
	if near, ok := suggest.Nearest(name, all); ok {
		return fmt.Sprintf("did you mean %s?", near)
	}
	sort.Strings(siblings)
	return "known here: " + strings.Join(siblings, ", ")
}

func hintValue(err error) string {
	var h *hinted
	if errors.As(err, &h) {
		if near, ok := suggest.Nearest(h.near, h.names); ok {
			return fmt.Sprintf("did you mean %s?", near)
		}
	}
	return ""
}

// environment reads WEIR_* over the file.
func (r *reader) environment(environ []string) {
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		k := byEnv(name)
		if k == nil {
			continue
		}
		delete(r.at, k.Path)
		if err := k.set(r.c, value); err != nil {
			r.mistakes = append(r.mistakes, &Error{File: "environment variable " + name, Msg: err.Error(), Hint: hintValue(err)})
		}
	}
}

func byEnv(name string) *Key {
	for i := range Keys {
		if Keys[i].Env() == name {
			return &Keys[i]
		}
	}
	return nil
}

// UnknownEnv returns a line for each WEIR_ variable that looks like a misspelt
// key. Others are left alone: `weir env` exports some, and orchestrators set
// WEIR_PORT and its like for a service named weir.
func UnknownEnv(environ []string) []string {
	var names, out []string
	for i := range Keys {
		names = append(names, Keys[i].Env())
	}
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, "WEIR_") || byEnv(name) != nil || slices.Contains(exported, name) {
			continue
		}
		if near, ok := suggest.Nearest(name, names); ok {
			out = append(out, fmt.Sprintf("environment variable %s is not a setting; did you mean %s?", name, near))
		}
	}
	return out
}

// exported are the variables `weir env` prints for clients.
var exported = []string{
	"WEIR_HOST", "WEIR_MQTT_PORT", "WEIR_MQTTS_PORT", "WEIR_HTTPS_PORT", "WEIR_MUX_PORT", "WEIR_API_URL", "WEIR_CA_FILE",
	"WEIR_CERT_FILE", "WEIR_KEY_FILE", "WEIR_TOKEN_FILE",
}

// Detail returns err as a user should read it: every mistake with its line, a
// caret and a hint.
func Detail(err error) string {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var parts []string
		for _, e := range joined.Unwrap() {
			parts = append(parts, Detail(e))
		}
		return strings.Join(parts, "\n")
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Detail()
	}
	return err.Error()
}
