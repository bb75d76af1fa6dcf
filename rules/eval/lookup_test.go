package eval_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/rules/eval"
	"github.com/weir-iot/weir/rules/sql"
)

// fake answers every look-up with what reply gives for the arguments it was
// asked with, joined by "|".
type fake struct {
	asked []string
	reply func(asked string) ([]byte, error)
}

func (f *fake) ask(args ...any) ([]byte, error) {
	s := strings.TrimSuffix(strings.ReplaceAll(fmt.Sprintln(args...), " ", "|"), "\n")
	f.asked = append(f.asked, s)
	return f.reply(s)
}

func (f *fake) Shadow(_ context.Context, thing, name, role string) ([]byte, error) {
	return f.ask("shadow", thing, name, role)
}
func (f *fake) Registry(_ context.Context, api, thing, role string) ([]byte, error) {
	return f.ask("registry", api, thing, role)
}
func (f *fake) Item(_ context.Context, table string, partition eval.TableKey, sort *eval.TableKey, role string) ([]byte, error) {
	if sort == nil {
		return f.ask("item", table, partition.Name, partition.Value, partition.Number, role)
	}
	return f.ask("item", table, partition.Name, partition.Value, partition.Number, sort.Name, sort.Value, sort.Number, role)
}
func (f *fake) Secret(_ context.Context, id string, binary bool, role string) ([]byte, error) {
	return f.ask("secret", id, binary, role)
}
func (f *fake) Invoke(_ context.Context, arn string, input []byte) ([]byte, error) {
	return f.ask("invoke", arn, string(input))
}
func (f *fake) Descriptor(_ context.Context, bucket, key string) ([]byte, error) {
	return f.ask("descriptor", bucket, key)
}
func (f *fake) Predict(_ context.Context, model, role string, record []byte) ([]byte, error) {
	return f.ask("predict", model, role, string(record))
}

func (f *fake) lookups() eval.Lookups {
	return eval.Lookups{Shadow: f, Registry: f, Table: f, Secret: f, Lambda: f, Descriptor: f, Predict: f}
}

func TestLookups(t *testing.T) {
	for _, c := range []struct{ expr, asked, reply, want string }{
		{"get_thing_shadow('lamp', 'r').state.on", "shadow|lamp||r", `{"state":{"on":true}}`, "true"},
		{"get_thing_shadow('lamp', 'dim', 'r').version", "shadow|lamp|dim|r", `{"version":4}`, "4"},
		{"get_thing_shadow(1, 'r')", "", "", ""},
		{"get_registry_data('DescribeThing', name, 'r').version", "registry|DescribeThing|lamp|r", `{"version":2}`, "2"},
		{"get_registry_data('DeleteThing', name, 'r')", "", "", ""},
		{"get_dynamodb('T', 'pk', name, 'r').floor", "item|T|pk|lamp|false|r", `{"floor":3}`, "3"},
		{"get_dynamodb('T', 'pk', 7, 'sk', '8', 'r')", "item|T|pk|7|true|sk|8|false|r", `{}`, "{}"},
		{"get_dynamodb('T', 'pk', true, 'r')", "", "", ""},
		{"get_secret('s', 'SecretString', 'r')", "secret|s|false|r", "plain", `"plain"`},
		{"get_secret('s', 'SecretString', 'r').key", "secret|s|false|r", `{"key":"v"}`, `"v"`},
		{"get_secret('s', 'SecretString', 'key', 'r')", "secret|s|false|r", `{"key":"v"}`, `"v"`},
		{"get_secret('s', 'SecretBinary', 'r')", "secret|s|true|r", "\x00\xff", `"AP8="`},
		{"get_secret('s', 'Other', 'r')", "", "", ""},
		{"aws_lambda('arn:f', {'n': name}).ok", `invoke|arn:f|{"n":"lamp"}`, `{"ok":1}`, "1"},
		{"aws_lambda('arn:f', *)", `invoke|arn:f|{"name":"lamp"}`, `[1]`, "[1]"},
		{"aws_lambda('arn:f', missing)", "", "", ""},
		{"machinelearning_predict('m', 'r', {'a': 1, 'b': {'c': 2}}).predictedLabel", `predict|m|r|{"a":1,"b":"{\"c\":2}"}`, `{"predictedLabel":"x"}`, `"x"`},
		{"machinelearning_predict('m', 'r', 1)", "", "", ""},
	} {
		f := &fake{reply: func(string) ([]byte, error) { return []byte(c.reply), nil }}
		want := `{"v":` + c.want + `}`
		if c.want == "" {
			want = "{}"
		}
		got, err := evaluate(t, c.expr, eval.Options{Version: "2016-03-23", Lookups: f.lookups()}, exampleEvent(eval.Example{Payload: `{"name":"lamp"}`}))
		if err != nil || got != want || strings.Join(f.asked, " ") != c.asked {
			t.Errorf("%s: %s %v, asked %q; want %s, asked %q", c.expr, got, err, f.asked, want, c.asked)
		}
	}
}

func TestLookupsThatFail(t *testing.T) {
	down := errs.E("test", errs.Unavailable, errors.New("down"))
	for _, c := range []struct {
		expr  string
		reply string
		err   error
		kind  errs.Kind // of the evaluation's error
		want  string    // where there is none
	}{
		{"get_thing_shadow('t', 'r')", "", down, errs.Unavailable, ""},
		{"get_thing_shadow('t', 'r')", "", errs.E("test", errs.NotFound, nil), 0, "{}"},
		{"get_thing_shadow('t', 'r')", "no json", nil, errs.Invalid, ""},
		{"get_or_default(get_thing_shadow('t', 'r').state, 'none')", "", down, 0, `{"v":"none"}`},
		{"get_or_default(aws_lambda('f', 1))", "", down, 0, "{}"},
		{"aws_lambda('f', 1)", "", context.DeadlineExceeded, errs.Timeout, ""},
		{"get_secret('s', 'SecretString', 'key', 'r')", "plain", nil, errs.Invalid, ""},
		{"get_secret('s', 'SecretString', 'key', 'r')", `{"other":1}`, nil, errs.Invalid, ""},
		{"get_secret('s', 'SecretBinary', 'key', 'r')", "", nil, errs.Invalid, ""},
		{"get_dynamodb('t', 'k', 'v', 'r')", `"` + strings.Repeat("x", 9000) + `"`, nil, errs.TooLarge, ""},
		{"decode(*, 'proto', 'b', 'k', 'f.proto', 'M')", "", down, errs.Unavailable, ""},
		{"decode(*, 'proto', 'b', 'k', 'f.proto', 'M')", "no descriptor", nil, errs.Invalid, ""},
		{"decode(*, 'proto', 'b', 'k', 'f.proto', 'M')", "", errs.E("test", errs.NotFound, nil), errs.NotFound, ""},
	} {
		f := &fake{reply: func(string) ([]byte, error) { return []byte(c.reply), c.err }}
		got, err := evaluate(t, c.expr, eval.Options{Version: "2016-03-23", Lookups: f.lookups()}, exampleEvent(eval.Example{}))
		if c.want == "" && (err == nil || errs.KindOf(err) != c.kind) || c.want != "" && (err != nil || got != c.want) {
			t.Errorf("%s: %s %v (%v), want %s %v", c.expr, got, err, errs.KindOf(err), c.want, c.kind)
		}
	}
}

// slowShadow answers when it must stop.
type slowShadow struct{}

func (slowShadow) Shadow(ctx context.Context, _, _, _ string) ([]byte, error) {
	at, ok := ctx.Deadline()
	if !ok || time.Until(at) > 2*time.Second {
		return nil, errors.New("no deadline within 2 seconds")
	}
	return nil, context.DeadlineExceeded
}

func TestLookupsHaveADeadline(t *testing.T) {
	_, err := evaluate(t, "get_thing_shadow('t', 'r')", eval.Options{Version: "2016-03-23", Lookups: eval.Lookups{Shadow: slowShadow{}}}, exampleEvent(eval.Example{}))
	if !errs.Is(err, errs.Timeout) {
		t.Error(err)
	}
}

// A look-up is asked once in an evaluation for the same arguments.
func TestLookupsAreAskedOnce(t *testing.T) {
	f := &fake{reply: func(string) ([]byte, error) { return []byte(`{"a":1}`), nil }}
	got, err := evaluate(t, "[get_thing_shadow('t', 'r').a, get_thing_shadow('t', 'r').a, get_thing_shadow('u', 'r').a]",
		eval.Options{Version: "2016-03-23", Lookups: f.lookups()}, exampleEvent(eval.Example{}))
	if err != nil || got != `{"v":[1,1,1]}` || len(f.asked) != 2 {
		t.Errorf("%s %v, asked %q", got, err, f.asked)
	}
}

// A function whose service is absent, and any that calls out in an error
// action, is refused when the rule is made, each with words of its own.
func TestLookupsAreRefused(t *testing.T) {
	messages := map[string]bool{}
	for _, expr := range []string{
		"get_thing_shadow('t', 'r')", "get_registry_data('DescribeThing', 't', 'r')", "get_dynamodb('t', 'k', 'v', 'r')", "get_secret('s', 'SecretString', 'r')",
		"aws_lambda('f', 1)", "decode(*, 'proto', 'b', 'k', 'f', 'm')", "machinelearning_predict('m', 'r', {})",
	} {
		for _, o := range []eval.Options{
			{Version: "2016-03-23"},
			{Version: "2016-03-23", ErrorAction: true, Lookups: (&fake{}).lookups()},
		} {
			stmt, err := sql.Parse("SELECT " + expr + " AS v FROM '#'")
			if err != nil {
				t.Fatal(err)
			}
			_, _, err = eval.Compile(stmt, o)
			var at *sql.Error
			if !errors.As(err, &at) || at.Column != 8 || at.Hint == "" {
				t.Errorf("%s: %v", expr, err)
				continue
			}
			if messages[at.Msg] {
				t.Errorf("%s: %q was said before", expr, at.Msg)
			}
			messages[at.Msg] = true
		}
	}
	// Without a call out decode needs nothing.
	if got, err := evaluate(t, "decode('YQ==', 'base64')", eval.Options{Version: "2016-03-23", ErrorAction: true}, exampleEvent(eval.Example{})); err != nil || got != `{"v":"a"}` {
		t.Errorf("%s %v", got, err)
	}
}

// descriptor is the descriptor of
//
//	package lab; message Reading { string unit_id = 1; double celsius = 2; int64 at = 3; repeated Reading parts = 4; Mode mode = 5; }
//	enum Mode { OFF = 0; ON = 1; }
func descriptor(t *testing.T) []byte {
	t.Helper()
	field := func(name string, n int32, kind descriptorpb.FieldDescriptorProto_Type, typeName string, repeated bool) *descriptorpb.FieldDescriptorProto {
		label := descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL
		if repeated {
			label = descriptorpb.FieldDescriptorProto_LABEL_REPEATED
		}
		f := &descriptorpb.FieldDescriptorProto{Name: proto.String(name), Number: proto.Int32(n), Type: kind.Enum(), Label: label.Enum()}
		if typeName != "" {
			f.TypeName = proto.String(typeName)
		}
		return f
	}
	set := &descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{{
		Name: proto.String("reading.proto"), Package: proto.String("lab"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{Name: proto.String("Reading"), Field: []*descriptorpb.FieldDescriptorProto{
			field("unit_id", 1, descriptorpb.FieldDescriptorProto_TYPE_STRING, "", false),
			field("celsius", 2, descriptorpb.FieldDescriptorProto_TYPE_DOUBLE, "", false),
			field("at", 3, descriptorpb.FieldDescriptorProto_TYPE_INT64, "", false),
			field("parts", 4, descriptorpb.FieldDescriptorProto_TYPE_MESSAGE, ".lab.Reading", true),
			field("mode", 5, descriptorpb.FieldDescriptorProto_TYPE_ENUM, ".lab.Mode", false),
		}}},
		EnumType: []*descriptorpb.EnumDescriptorProto{{Name: proto.String("Mode"), Value: []*descriptorpb.EnumValueDescriptorProto{
			{Name: proto.String("OFF"), Number: proto.Int32(0)}, {Name: proto.String("ON"), Number: proto.Int32(1)},
		}}},
	}}}
	b, err := proto.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func reading(id string, parts ...[]byte) []byte {
	b := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), id)
	b = protowire.AppendFixed64(protowire.AppendTag(b, 2, protowire.Fixed64Type), 0x4035800000000000) // 21.5
	b = protowire.AppendVarint(protowire.AppendTag(b, 3, protowire.VarintType), 1700000000123)
	for _, p := range parts {
		b = protowire.AppendBytes(protowire.AppendTag(b, 4, protowire.BytesType), p)
	}
	return protowire.AppendVarint(protowire.AppendTag(b, 5, protowire.VarintType), 1)
}

func TestDecodeProto(t *testing.T) {
	set := descriptor(t)
	f := &fake{reply: func(string) ([]byte, error) { return set, nil }}
	o := eval.Options{Version: "2016-03-23", Lookups: f.lookups()}
	e := exampleEvent(eval.Example{})
	e.Payload = reading("u1", reading("u2"))
	const part = `"unitId":"u2","celsius":21.5,"at":"1700000000123","mode":"ON"`
	deep := reading("u")
	for range 70 {
		deep = reading("u", deep)
	}
	for expr, want := range map[string]string{
		"decode(*, 'proto', 'b', 'k', 'reading.proto', 'Reading')":                                                         `{"v":{"unitId":"u1","celsius":21.5,"at":"1700000000123","parts":[{` + part + `}],"mode":"ON"}}`,
		"decode(*, 'proto', 'b', 'k', 'reading.proto', 'lab.Reading').celsius":                                             `{"v":21.5}`,
		"decode(encode(*, 'base64'), 'proto', 'b', 'k', 'reading.proto', 'Reading').mode":                                  `{"v":"ON"}`,
		"decode('" + base64.StdEncoding.EncodeToString([]byte{0xff}) + "', 'proto', 'b', 'k', 'reading.proto', 'Reading')": "{}",
		"decode('?', 'proto', 'b', 'k', 'reading.proto', 'Reading')":                                                       "{}",
		"decode('" + base64.StdEncoding.EncodeToString(deep) + "', 'proto', 'b', 'k', 'reading.proto', 'Reading')":         "{}",
		"decode(1, 'proto', 'b', 'k', 'reading.proto', 'Reading')":                                                         "{}",
		"decode(*, 'proto', 'b', 'k', 'reading.proto', missing)":                                                           "{}",
	} {
		if got, err := evaluate(t, expr, o, e); err != nil || got != want {
			t.Errorf("%.90s: %s %v, want %s", expr, got, err, want)
		}
	}
	for _, expr := range []string{
		"decode(*, 'proto', 'b', 'k', 'other.proto', 'Reading')", "decode(*, 'proto', 'b', 'k', 'reading.proto', 'Nothing')", "decode(*, 'proto', 'b', 'k', 'reading.proto', 'lab.Mode')",
	} {
		if got, err := evaluate(t, expr, o, e); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %s %v", expr, got, err)
		}
	}
}

func FuzzDecodeProto(f *testing.F) {
	f.Add(reading("u1", reading("u2")), true)
	f.Add([]byte("\x0a\x03lab"), false)
	f.Fuzz(func(t *testing.T, data []byte, message bool) {
		set := descriptor(t)
		e := exampleEvent(eval.Example{})
		if message {
			e.Payload = data
		} else {
			set = data
		}
		r := &fake{reply: func(string) ([]byte, error) { return set, nil }}
		begin := time.Now()
		evaluate(t, "decode(*, 'proto', 'b', 'k', 'reading.proto', 'Reading')", eval.Options{Version: "2016-03-23", Lookups: r.lookups()}, e)
		if d := time.Since(begin); d > time.Second {
			t.Errorf("%d bytes took %v", len(data), d)
		}
	})
}

func TestCacheSecrets(t *testing.T) {
	n := 0
	f := &fake{reply: func(s string) ([]byte, error) {
		if n++; strings.Contains(s, "bad") {
			return nil, errors.New("down")
		}
		return []byte(fmt.Sprint(n)), nil
	}}
	now := time.Unix(1700000000, 0)
	s := eval.CacheSecrets(f, func() time.Time { return now })
	read := func(id string) string {
		b, err := s.Secret(context.Background(), id, false, "r")
		return fmt.Sprint(string(b), err)
	}
	if a, b := read("x"), read("x"); a != "1<nil>" && a != "1 <nil>" || b != a {
		t.Errorf("%s, then %s", a, b)
	}
	now = now.Add(15 * time.Minute)
	if a := read("x"); !strings.HasPrefix(a, "2") {
		t.Errorf("after 15 minutes %s", a)
	}
	if a := read("bad"); !strings.Contains(a, "down") {
		t.Error(a)
	}
	read("bad")
	if n != 4 {
		t.Errorf("asked %d times", n)
	}
	for i := range 2500 {
		read(fmt.Sprint("id", i))
	}
	if a, b := read("id2499"), read("id2499"); a != b {
		t.Errorf("%s, then %s", a, b)
	}
}
