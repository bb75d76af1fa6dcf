package awsapi

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// A request's shape is a struct; the tags of a field say the rest:
//
//	json   the member's name
//	in     where it stands: "uri", "query", "header", "payload" (the whole body);
//	       without: a member of the JSON body
//	is     what it must be, separated by blanks: "required"; "1..128", the length of
//	       a text, a blob, a list or a map, or the value of a number, either end may
//	       be missing; "~name", one of forms; "=A|B", one of these
//	each   the same for the items of a list or the values of a map
//	keys   the same for the keys of a map
//	default the text of a member that is not given
//	refuse a setting that would change nothing here, with the reason: a request
//	       that has it is refused
//
// Strings, numbers and booleans that may be absent and have a meaning when empty
// are pointers.
type shape struct {
	members []member
	byName  map[string]*member // those of the body
	payload *member
}

type member struct {
	name   string
	in     string // "", "uri", "query", "header", "payload"
	index  int
	typ    reflect.Type
	is     constraint
	each   constraint
	keys   constraint
	def    string
	refuse string
}

// constraint is what a value must be.
type constraint struct {
	required bool
	min, max int64 // max < 0: none
	form     string
	pattern  *regexp.Regexp
	oneOf    []string
}

// forms are the patterns of the API model, by the names the tags use. They
// match whole values.
var forms = map[string]*regexp.Regexp{}

func form(name, pattern string) {
	forms[name] = regexp.MustCompile(`\A(?:` + pattern + `)\z`)
}

func init() {
	for name, pattern := range map[string]string{
		"name":           `[a-zA-Z0-9:_-]+`,
		"word":           `[\w=,@-]+`,
		"policy":         `[\w+=,.@-]+`,
		"rule":           `[a-zA-Z0-9_]+`,
		"attribute":      `[a-zA-Z0-9_.,@/:#-]+`,
		"value":          `[a-zA-Z0-9_.,@/:#=\[\]-]*`,
		"text":           `[\pL\pM\pN\pP\pS ]*`,
		"hex":            `(0x)?[a-fA-F0-9]+`,
		"digits":         `[0-9]+`,
		"template":       `[0-9A-Za-z_-]+`,
		"shadow":         `[$a-zA-Z0-9:_-]+`,
		"tag":            `[\pL\pZ\pN_.:/=+\-@]*`,
		"line":           `[^\pC]*`,
		"token":          `[a-zA-Z0-9-_]+`,
		"payloadVersion": `[0-9-]+`,
		"client":         `[^$][\s\S]*`,
		"domain":         `[\w.-]+`,
		"reserved":       `[\w.:-]+`,
		"base64":         `[A-Za-z0-9+/]+={0,2}`,
		"arn":            `arn:[!-~]+`,
	} {
		form(name, pattern)
	}
}

var shapes sync.Map // reflect.Type to *shape

// shapeOf returns the shape that struct type t describes. It panics where a tag
// is wrong: the table's tests see to it that none is.
func shapeOf(t reflect.Type) *shape {
	if s, ok := shapes.Load(t); ok {
		return s.(*shape)
	}
	s := &shape{byName: map[string]*member{}, members: make([]member, 0, t.NumField())}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || !f.IsExported() {
			panic(fmt.Sprintf("awsapi: %s.%s has no name", t, f.Name))
		}
		s.members = append(s.members, member{
			name: name, in: f.Tag.Get("in"), index: i, typ: f.Type, refuse: f.Tag.Get("refuse"), def: f.Tag.Get("default"),
			is: parseConstraint(f.Tag.Get("is")), each: parseConstraint(f.Tag.Get("each")), keys: parseConstraint(f.Tag.Get("keys")),
		})
	}
	for i := range s.members {
		switch m := &s.members[i]; m.in {
		case "":
			s.byName[m.name] = m
		case "payload":
			s.payload = m
		case "uri", "query", "header":
		default:
			panic(fmt.Sprintf("awsapi: %s.%s stands in %q", t, m.name, m.in))
		}
	}
	shapes.Store(t, s)
	return s
}

func parseConstraint(tag string) constraint {
	c := constraint{max: -1}
	for _, word := range strings.Fields(tag) {
		switch {
		case word == "required":
			c.required = true
		case word[0] == '~':
			if c.form, c.pattern = word[1:], forms[word[1:]]; c.pattern == nil {
				panic("awsapi: no form " + word)
			}
		case word[0] == '=':
			c.oneOf = strings.Split(word[1:], "|")
		default:
			lo, hi, ok := strings.Cut(word, "..")
			var err1, err2 error
			if lo != "" {
				c.min, err1 = strconv.ParseInt(lo, 10, 64)
			}
			if hi != "" {
				c.max, err2 = strconv.ParseInt(hi, 10, 64)
			}
			if !ok || err1 != nil || err2 != nil {
				panic("awsapi: cannot read constraint " + word)
			}
		}
	}
	return c
}

// input is what a request consists of.
type input struct {
	labels map[string]string // of the path
	query  url.Values
	header http.Header
	body   []byte

	ignored []string // members nobody knows, as AWS ignores them; at most a few
}

const maxIgnored = 8

// decode reads the request into the struct v and checks it.
func (s *shape) decode(v reflect.Value, in *input) error {
	var body map[string]any
	switch {
	case s.payload != nil:
		if err := s.payload.set(v.Field(s.payload.index), in); err != nil {
			return err
		}
	case len(s.byName) > 0 && len(in.body) > 0:
		tree, err := parseJSON(in.body)
		if err != nil {
			return err
		}
		switch tree := tree.(type) {
		case map[string]any:
			body = tree
		case nil:
		default:
			return serialization("", "an object", tree)
		}
	}
	known := 0
	for i := range s.members {
		m := &s.members[i]
		f := v.Field(m.index)
		var err error
		switch m.in {
		case "uri":
			err = m.text(f, in.labels[m.name], true)
		case "query":
			if values, ok := in.query[m.name]; ok {
				known++
				err = m.texts(f, values)
			}
		case "header":
			if value := in.header.Get(m.name); value != "" {
				err = m.text(f, value, true)
			}
		}
		if err != nil {
			return err
		}
	}
	if known < len(in.query) {
		for name := range in.query {
			if !slices.ContainsFunc(s.members, func(m member) bool { return m.in == "query" && m.name == name }) {
				in.ignore(name)
			}
		}
	}
	if err := s.object(v, body, "", in); err != nil {
		return err
	}
	return s.check(v, "")
}

func (in *input) ignore(name string) {
	if len(in.ignored) < maxIgnored && !strings.HasPrefix(name, "X-Amz-") {
		in.ignored = append(in.ignored, clip(name))
	}
}

// clip shortens what a message or a log line repeats of a request.
func clip(s string) string {
	const most = 128
	if len(s) <= most {
		return s
	}
	n := most
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

// object reads the members of a JSON object into the struct v.
func (s *shape) object(v reflect.Value, o map[string]any, path string, in *input) error {
	for name, value := range o {
		m := s.byName[name]
		if m == nil {
			in.ignore(path + name)
			continue
		}
		if value == nil {
			continue // as if it were not there
		}
		if err := fill(v.Field(m.index), value, path+m.name, in); err != nil {
			return err
		}
	}
	return nil
}

var (
	rawType  = reflect.TypeFor[json.RawMessage]()
	blobType = reflect.TypeFor[[]byte]()
	timeType = reflect.TypeFor[Time]()
)

// fill reads one JSON value.
func fill(v reflect.Value, value any, path string, in *input) error {
	if v.Kind() == reflect.Pointer {
		p := reflect.New(v.Type().Elem())
		v.Set(p)
		return fill(p.Elem(), value, path, in)
	}
	switch v.Type() {
	case rawType:
		b, err := json.Marshal(value)
		if err != nil {
			return serialization(path, "JSON", value)
		}
		v.SetBytes(b)
		return nil
	case blobType:
		text, ok := value.(string)
		if !ok {
			return serialization(path, "a string in base64", value)
		}
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return &Error{Code: "SerializationException", Message: path + ": not base64"}
		}
		v.SetBytes(b)
		return nil
	case timeType:
		t, ok := readTime(value)
		if !ok {
			return serialization(path, "a time in seconds since 1970", value)
		}
		v.Set(reflect.ValueOf(Time{t}))
		return nil
	}
	switch v.Kind() {
	case reflect.String:
		text, ok := value.(string)
		if !ok {
			return serialization(path, "a string", value)
		}
		v.SetString(text)
	case reflect.Bool:
		b, ok := value.(bool)
		if !ok {
			return serialization(path, "true or false", value)
		}
		v.SetBool(b)
	case reflect.Int64:
		n, ok := value.(json.Number)
		i, err := strconv.ParseInt(string(n), 10, 64)
		if !ok || err != nil {
			f, err := n.Float64()
			if !ok || err != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
				return serialization(path, "a whole number", value)
			}
			i = int64(f)
		}
		v.SetInt(i)
	case reflect.Float64:
		n, ok := value.(json.Number)
		f, err := n.Float64()
		if !ok || err != nil {
			return serialization(path, "a number", value)
		}
		v.SetFloat(f)
	case reflect.Slice:
		list, ok := value.([]any)
		if !ok {
			return serialization(path, "a list", value)
		}
		out := reflect.MakeSlice(v.Type(), len(list), len(list))
		for i, item := range list {
			if item == nil {
				return serialization(path+"."+strconv.Itoa(i+1)+".member", "a value", item)
			}
			if err := fill(out.Index(i), item, path+"."+strconv.Itoa(i+1)+".member", in); err != nil {
				return err
			}
		}
		v.Set(out)
	case reflect.Map:
		o, ok := value.(map[string]any)
		if !ok {
			return serialization(path, "an object", value)
		}
		out := reflect.MakeMapWithSize(v.Type(), len(o))
		for name, item := range o {
			if item == nil {
				continue
			}
			e := reflect.New(v.Type().Elem()).Elem()
			if err := fill(e, item, path+"."+clip(name), in); err != nil {
				return err
			}
			out.SetMapIndex(reflect.ValueOf(name).Convert(v.Type().Key()), e)
		}
		v.Set(out)
	case reflect.Struct:
		o, ok := value.(map[string]any)
		if !ok {
			return serialization(path, "an object", value)
		}
		return shapeOf(v.Type()).object(v, o, path+".", in)
	default:
		panic("awsapi: no way to read " + v.Type().String())
	}
	return nil
}

// set takes the whole body.
func (m *member) set(v reflect.Value, in *input) error {
	if m.typ == blobType {
		v.SetBytes(in.body)
		return nil
	}
	if len(in.body) == 0 {
		return nil
	}
	tree, err := parseJSON(in.body)
	if err != nil || tree == nil {
		return err
	}
	return fill(v, tree, m.name, in)
}

// texts reads the values of a query parameter.
func (m *member) texts(v reflect.Value, values []string) error {
	if m.typ.Kind() == reflect.Slice {
		v.Set(reflect.ValueOf(slices.Clone(values)).Convert(m.typ))
		return nil
	}
	if len(values) > 1 {
		return invalid("the parameter %s is there %d times", m.name, len(values))
	}
	return m.text(v, values[0], false)
}

// text reads a value that stands in the path, the query or a header.
func (m *member) text(v reflect.Value, s string, strict bool) error {
	if v.Kind() == reflect.Pointer {
		if s == "" && !strict {
			return nil
		}
		p := reflect.New(v.Type().Elem())
		v.Set(p)
		v = p.Elem()
	}
	if !utf8.ValidString(s) {
		return invalid("%s is not UTF-8", m.name)
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(s)
	case reflect.Bool:
		switch s {
		case "true":
			v.SetBool(true)
		case "false", "":
		default:
			return invalid("%s: expected true or false, found %q", m.name, clip(s))
		}
	case reflect.Int64:
		if s == "" {
			return nil
		}
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return invalid("%s: expected a whole number, found %q", m.name, clip(s))
		}
		v.SetInt(n)
	case reflect.Slice: // base64 of JSON or of bytes
		b, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			return invalid("%s is not base64", m.name)
		}
		if m.typ == rawType {
			if _, err := parseJSON(b); err != nil {
				return invalid("%s is not JSON", m.name)
			}
		}
		v.SetBytes(b)
	case reflect.Struct:
		t, ok := readTime(s)
		if !ok {
			return invalid("%s: expected a time, found %q", m.name, clip(s))
		}
		v.Set(reflect.ValueOf(Time{t}))
	default:
		panic("awsapi: no way to read " + m.name)
	}
	return nil
}

// check holds v against the shape.
func (s *shape) check(v reflect.Value, path string) error {
	for i := range s.members {
		m := &s.members[i]
		f := v.Field(m.index)
		if absent(f) {
			if m.def != "" {
				f.SetString(m.def)
				continue
			}
			if m.is.required {
				return violation("null", path+m.name, "Member must not be null")
			}
			continue
		}
		if m.refuse != "" {
			if !f.IsZero() && !(f.Kind() == reflect.Pointer && f.Elem().IsZero()) {
				return notSupported(path+m.name, m.refuse)
			}
			continue
		}
		if err := m.is.check(f, path+m.name); err != nil {
			return err
		}
		if err := m.checkInside(f, path+m.name); err != nil {
			return err
		}
	}
	return nil
}

// absent says whether a member was not given. An empty text, list or map counts
// as given only where the field is a pointer.
func absent(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return v.IsNil()
	case reflect.String:
		return v.Len() == 0
	case reflect.Struct:
		return v.IsZero()
	}
	return false
}

func (m *member) checkInside(f reflect.Value, path string) error {
	if f.Kind() == reflect.Pointer {
		f = f.Elem()
	}
	switch {
	case f.Type() == rawType || f.Type() == blobType || f.Type() == timeType:
		return nil
	case f.Kind() == reflect.Struct:
		return shapeOf(f.Type()).check(f, path+".")
	case f.Kind() == reflect.Slice:
		inside := f.Type().Elem().Kind() == reflect.Struct
		for i := range f.Len() {
			at := path + "." + strconv.Itoa(i+1) + ".member"
			if inside {
				if err := shapeOf(f.Type().Elem()).check(f.Index(i), at+"."); err != nil {
					return err
				}
			} else if err := m.each.check(f.Index(i), at); err != nil {
				return err
			}
		}
	case f.Kind() == reflect.Map:
		inside := f.Type().Elem().Kind() == reflect.Struct
		for it := f.MapRange(); it.Next(); {
			if err := m.keys.check(it.Key(), path); err != nil {
				return err
			}
			at := path + "." + clip(it.Key().String()) + ".member"
			if inside {
				if err := shapeOf(f.Type().Elem()).check(it.Value(), at+"."); err != nil {
					return err
				}
			} else if err := m.each.check(it.Value(), at); err != nil {
				return err
			}
		}
	}
	return nil
}

// check reports how v breaks the constraint, in the words of AWS.
func (c *constraint) check(v reflect.Value, path string) error {
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	switch v.Kind() {
	case reflect.String:
		s := v.String()
		n := int64(utf8.RuneCountInString(s))
		if !utf8.ValidString(s) {
			return invalid("%s is not UTF-8", path)
		}
		if n < c.min {
			return violation(s, path, "Member must have length greater than or equal to %d", c.min)
		}
		if c.max >= 0 && n > c.max {
			return violation(s, path, "Member must have length less than or equal to %d", c.max)
		}
		if c.pattern != nil && !c.pattern.MatchString(s) {
			p := c.pattern.String()
			return violation(s, path, "Member must satisfy regular expression pattern: %s", p[len(`\A(?:`):len(p)-len(`)\z`)])
		}
		if c.oneOf != nil && !slices.Contains(c.oneOf, s) {
			return violation(s, path, "Member must satisfy enum value set: [%s]", strings.Join(c.oneOf, ", "))
		}
	case reflect.Int64:
		n := v.Int()
		if n < c.min {
			return violation(strconv.FormatInt(n, 10), path, "Member must have value greater than or equal to %d", c.min)
		}
		if c.max >= 0 && n > c.max {
			return violation(strconv.FormatInt(n, 10), path, "Member must have value less than or equal to %d", c.max)
		}
	case reflect.Slice, reflect.Map:
		n := int64(v.Len())
		if n < c.min {
			return violation("", path, "Member must have length greater than or equal to %d", c.min)
		}
		if c.max >= 0 && n > c.max {
			return violation("", path, "Member must have length less than or equal to %d", c.max)
		}
	}
	return nil
}

// violation is a broken constraint.
func violation(value, path, format string, args ...any) error {
	return &Error{Code: "InvalidRequestException", Message: fmt.Sprintf("1 validation error detected: Value '%s' at '%s' failed to satisfy constraint: %s",
		clip(value), path, fmt.Sprintf(format, args...))}
}

func notSupported(path, reason string) error {
	return &Error{Code: NotImplemented, Message: fmt.Sprintf("%s: %s", path, reason)}
}

func serialization(path, want string, got any) error {
	found := "an object"
	switch got.(type) {
	case nil:
		found = "null"
	case string:
		found = "a string"
	case json.Number:
		found = "a number"
	case bool:
		found = "true or false"
	case []any:
		found = "a list"
	}
	if path == "" {
		path = "the body"
	}
	return &Error{Code: "SerializationException", Message: fmt.Sprintf("%s: expected %s, found %s", clip(path), want, found)}
}

// Time is a point in time, in JSON the seconds since 1970 with a fraction.
type Time struct{ time.Time }

// MarshalJSON writes seconds with milliseconds.
func (t Time) MarshalJSON() ([]byte, error) {
	ms := t.UnixMilli()
	return fmt.Appendf(nil, "%d.%03d", ms/1000, ms%1000), nil
}

func readTime(v any) (time.Time, bool) {
	switch v := v.(type) {
	case json.Number:
		f, err := v.Float64()
		if err != nil || math.Abs(f) > 1e11 {
			return time.Time{}, false
		}
		return time.UnixMilli(int64(f * 1000)).UTC(), true
	case string:
		if t, err := time.Parse(time.RFC3339Nano, v); err == nil {
			return t.UTC(), true
		}
		if t, err := http.ParseTime(v); err == nil {
			return t.UTC(), true
		}
	}
	return time.Time{}, false
}
