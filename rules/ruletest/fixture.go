package ruletest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/strictyaml"
	"github.com/weir-iot/weir/rules/eval"
)

// Fixtures are what the services a statement calls out to answer. nil has none:
// every look-up fails, and says so.
type Fixtures struct {
	shadows     map[string]json.RawMessage // by "thing" or "thing/shadow"
	registry    map[string]map[string]json.RawMessage
	tables      map[string][]*strictyaml.Node
	secrets     map[string]secret
	functions   []function
	descriptors map[string]string // file by "bucket/key"
	fail        map[string]string // text by function
}

type secret struct {
	text   string
	binary []byte
}

type function struct {
	arn    string
	input  json.RawMessage // nil: any
	answer json.RawMessage
	err    string
}

// ReadFixtures reads a file that holds fixtures alone; an empty name gives none.
func ReadFixtures(name string) (*Fixtures, error) {
	if name == "" {
		return nil, nil
	}
	src, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	n, err := strictyaml.Parse(name, src)
	if err != nil {
		return nil, err
	}
	return readFixtures(n, filepath.Dir(name), nil)
}

// readFixtures reads n over the fixtures that hold for the whole file.
func readFixtures(n *strictyaml.Node, dir string, base *Fixtures) (*Fixtures, error) {
	if n == nil {
		return base, nil
	}
	if err := n.Keys("shadows", "registry", "tables", "secrets", "functions", "descriptors", "fail"); err != nil {
		return nil, err
	}
	f := &Fixtures{}
	if base != nil {
		*f = *base
	}
	if s := n.Get("shadows"); s != nil {
		if err := s.Expect("shadows", strictyaml.Map); err != nil {
			return nil, err
		}
		f.shadows = over(f.shadows)
		for _, x := range s.Fields {
			f.shadows[x.Name] = x.Value.JSON()
		}
	}
	if r := n.Get("registry"); r != nil {
		if err := r.Keys("DescribeThing", "ListThingGroupsForThing"); err != nil {
			return nil, err
		}
		f.registry = over(f.registry)
		for _, api := range r.Fields {
			if err := api.Value.Expect(api.Name, strictyaml.Map); err != nil {
				return nil, err
			}
			m := over(f.registry[api.Name])
			for _, x := range api.Value.Fields {
				m[x.Name] = x.Value.JSON()
			}
			f.registry[api.Name] = m
		}
	}
	if t := n.Get("tables"); t != nil {
		if err := t.Expect("tables", strictyaml.Map); err != nil {
			return nil, err
		}
		f.tables = over(f.tables)
		for _, x := range t.Fields {
			if err := x.Value.Expect("a table", strictyaml.List); err != nil {
				return nil, err
			}
			for _, row := range x.Value.Items {
				if err := row.Expect("a row", strictyaml.Map); err != nil {
					return nil, err
				}
			}
			f.tables[x.Name] = x.Value.Items
		}
	}
	if s := n.Get("secrets"); s != nil {
		if err := s.Expect("secrets", strictyaml.Map); err != nil {
			return nil, err
		}
		f.secrets = over(f.secrets)
		for _, x := range s.Fields {
			v := secret{text: string(x.Value.JSON())}
			if x.Value.Kind == strictyaml.String {
				v.text = x.Value.Text
			}
			if b := x.Value.Get("base64"); b != nil && len(x.Value.Fields) == 1 {
				raw, err := base64.StdEncoding.DecodeString(b.Text)
				if err != nil {
					return nil, b.Errorf("", "not base64: %v", err)
				}
				v = secret{binary: raw}
			}
			f.secrets[x.Name] = v
		}
	}
	if l := n.Get("functions"); l != nil {
		if err := l.Expect("functions", strictyaml.List); err != nil {
			return nil, err
		}
		f.functions = slices.Clone(f.functions)
		for i, x := range l.Items {
			if err := x.Keys("arn", "input", "answer", "error"); err != nil {
				return nil, err
			}
			fn := function{}
			for _, field := range x.Fields {
				switch field.Name {
				case "arn":
					fn.arn = field.Value.Text
				case "input":
					fn.input = field.Value.JSON()
				case "answer":
					fn.answer = field.Value.JSON()
				case "error":
					fn.err = field.Value.Text
				}
			}
			if fn.arn == "" || (fn.answer == nil) == (fn.err == "") {
				return nil, x.Errorf("", "a function has an arn and an answer, or an arn and an error")
			}
			f.functions = slices.Insert(f.functions, i, fn) // nearer ones count first
		}
	}
	if d := n.Get("descriptors"); d != nil {
		if err := d.Expect("descriptors", strictyaml.Map); err != nil {
			return nil, err
		}
		f.descriptors = over(f.descriptors)
		for _, x := range d.Fields {
			if err := x.Value.Expect("a descriptor's file", strictyaml.String); err != nil {
				return nil, err
			}
			f.descriptors[x.Name] = filepath.Join(dir, filepath.FromSlash(x.Value.Text))
		}
	}
	if e := n.Get("fail"); e != nil {
		if err := e.Keys(lookupNames...); err != nil {
			return nil, err
		}
		f.fail = over(f.fail)
		for _, x := range e.Fields {
			if err := x.Value.Expect(x.Name, strictyaml.String); err != nil {
				return nil, err
			}
			f.fail[x.Name] = x.Value.Text
		}
	}
	return f, nil
}

var lookupNames = []string{"get_thing_shadow", "get_registry_data", "get_dynamodb", "get_secret", "aws_lambda", "decode"}

func over[V any](m map[string]V) map[string]V {
	c := make(map[string]V, len(m)+1)
	for k, v := range m {
		c[k] = v
	}
	return c
}

type fixturesKey struct{}

// scene is what look-ups of one case find.
type scene struct {
	fixtures *Fixtures
	mu       sync.Mutex // guards missing
	missing  string     // the first look-up that no fixture answers
}

// WithFixtures returns a context in which Lookups answer from f.
func WithFixtures(ctx context.Context, f *Fixtures) context.Context {
	return context.WithValue(ctx, fixturesKey{}, &scene{fixtures: f})
}

// MissingFixture returns the first look-up of ctx that no fixture answered.
func MissingFixture(ctx context.Context) string {
	s, ok := ctx.Value(fixturesKey{}).(*scene)
	if !ok {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.missing
}

// Lookups returns services that answer from the fixtures of the context they
// are asked in.
func Lookups() eval.Lookups {
	return eval.Lookups{Shadow: lookups{}, Registry: lookups{}, Table: lookups{}, Secret: lookups{}, Lambda: lookups{}, Descriptor: lookups{}}
}

type lookups struct{}

// find returns the fixtures a function has in ctx. have tells whether they say
// anything about what it asks for.
func find(ctx context.Context, fn, what, key string, have func(*Fixtures) bool) (*Fixtures, error) {
	s, _ := ctx.Value(fixturesKey{}).(*scene)
	if s != nil && s.fixtures != nil {
		if text, ok := s.fixtures.fail[fn]; ok {
			return nil, errs.Errorf("ruletest."+fn, errs.Unavailable, "%s", text)
		}
		if have(s.fixtures) {
			return s.fixtures, nil
		}
	}
	missing := fmt.Sprintf("%s asks for %s, and the fixtures have no %s", fn, what, key)
	if s != nil {
		s.mu.Lock()
		if s.missing == "" {
			s.missing = missing
		}
		s.mu.Unlock()
	}
	return nil, errs.Errorf("ruletest."+fn, errs.Unavailable, "%s", missing)
}

func notFound(fn, what string) error {
	return errs.Errorf("ruletest."+fn, errs.NotFound, "there is no %s", what)
}

func (lookups) Shadow(ctx context.Context, thing, name, _ string) ([]byte, error) {
	key := thing
	if name != "" {
		key += "/" + name
	}
	f, err := find(ctx, "get_thing_shadow", "the shadow "+key, "shadows", func(f *Fixtures) bool { return f.shadows != nil })
	if err != nil {
		return nil, err
	}
	if doc, ok := f.shadows[key]; ok {
		return doc, nil
	}
	return nil, notFound("get_thing_shadow", "shadow "+key)
}

func (lookups) Registry(ctx context.Context, api, thing, _ string) ([]byte, error) {
	f, err := find(ctx, "get_registry_data", api+" of "+thing, "registry."+api, func(f *Fixtures) bool { return f.registry[api] != nil })
	if err != nil {
		return nil, err
	}
	if doc, ok := f.registry[api][thing]; ok {
		return doc, nil
	}
	return nil, notFound("get_registry_data", "thing "+thing)
}

func (lookups) Item(ctx context.Context, table string, partition eval.TableKey, sort *eval.TableKey, _ string) ([]byte, error) {
	f, err := find(ctx, "get_dynamodb", "the table "+table, "tables."+table, func(f *Fixtures) bool { return f.tables[table] != nil })
	if err != nil {
		return nil, err
	}
	for _, row := range f.tables[table] {
		if holds(row, partition) && (sort == nil || holds(row, *sort)) {
			return row.JSON(), nil
		}
	}
	return nil, nil
}

func holds(row *strictyaml.Node, k eval.TableKey) bool {
	v := row.Get(k.Name)
	if v == nil {
		return false
	}
	if k.Number {
		return v.Kind == strictyaml.Number && sameNumber(v.Text, k.Value)
	}
	return v.Kind == strictyaml.String && v.Text == k.Value
}

func (lookups) Secret(ctx context.Context, id string, binary bool, _ string) ([]byte, error) {
	f, err := find(ctx, "get_secret", "the secret "+id, "secrets", func(f *Fixtures) bool { return f.secrets != nil })
	if err != nil {
		return nil, err
	}
	s, ok := f.secrets[id]
	if !ok {
		return nil, notFound("get_secret", "secret "+id)
	}
	if binary {
		if s.binary == nil {
			return []byte(s.text), nil
		}
		return s.binary, nil
	}
	return []byte(s.text), nil
}

func (lookups) Invoke(ctx context.Context, arn string, input []byte) ([]byte, error) {
	answers := func(fn function) bool {
		return (fn.arn == arn || strings.HasSuffix(arn, ":"+fn.arn)) && (fn.input == nil || len(diffJSON(fn.input, input, false)) == 0)
	}
	f, err := find(ctx, "aws_lambda", "the function "+arn+" with "+string(input), "such function",
		func(f *Fixtures) bool { return slices.ContainsFunc(f.functions, answers) })
	if err != nil {
		return nil, err
	}
	fn := f.functions[slices.IndexFunc(f.functions, answers)]
	if fn.err != "" {
		return nil, errs.Errorf("ruletest.aws_lambda", errs.Unavailable, "%s", fn.err)
	}
	return fn.answer, nil
}

func (lookups) Descriptor(ctx context.Context, bucket, key string) ([]byte, error) {
	at := bucket + "/" + key
	f, err := find(ctx, "decode", "the descriptor "+at, "descriptors."+at, func(f *Fixtures) bool { return f.descriptors[at] != "" })
	if err != nil {
		return nil, err
	}
	return os.ReadFile(f.descriptors[at])
}

// ParseTime reads a time: RFC 3339, or milliseconds since 1970.
func ParseTime(s string) (time.Time, error) {
	if ms, err := strconv.ParseInt(s, 10, 64); err == nil {
		return time.UnixMilli(ms).UTC(), nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return t, fmt.Errorf("%q is no time: write 2026-01-31T12:00:00Z or milliseconds since 1970", s)
	}
	return t.UTC().Truncate(time.Millisecond), nil
}
