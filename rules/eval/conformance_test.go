package eval_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/apd/v3"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
	"github.com/weir-iot/weir/rules/eval"
	"github.com/weir-iot/weir/rules/sql"
)

// vector is a line of a conformance file; README.md beside the files says what
// the fields mean.
type vector struct {
	ID, Group, SQL, SQLVersion, Topic, RuleName, Protocol     string
	ClientID, Principal, AccountID, SourceIP                  string
	Template, PayloadText, PayloadBase64                      *string
	Payload                                                   json.RawMessage
	UserProperties                                            [][2]string
	MQTT                                                      *struct{ ContentType, PayloadFormatIndicator, ResponseTopic, CorrelationDataBase64 string }
	Tolerance                                                 json.Number
	Expect                                                    json.RawMessage
	ExpectText, ExpectBase64, ExpectString, ExpectMatchString *string
	ExpectNoAction, ExpectParseError                          bool
	ExpectMatch                                               map[string]string
	ExpectAbsent                                              []string
}

// TestConformance runs the vectors of rules/testdata/conformance/sql, or those
// in the folder sql of $WEIR_CONFORMANCE.
func TestConformance(t *testing.T) {
	dir := filepath.Join("..", "testdata", "conformance", "sql")
	if root := os.Getenv("WEIR_CONFORMANCE"); root != "" {
		dir = filepath.Join(root, "sql")
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no conformance vectors in %s", dir)
	}
	type count struct{ passed, failed int }
	groups := make(map[string]*count)
	total := count{}
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		lines := bufio.NewScanner(f)
		lines.Buffer(nil, 4<<20)
		for lines.Scan() {
			var v vector
			if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			g := groups[v.Group]
			if g == nil {
				g = &count{}
				groups[v.Group] = g
			}
			if err := v.run(); err != nil {
				g.failed++
				total.failed++
				t.Errorf("%s %s\n\t%s%s\n\t%v", v.Group, v.ID, v.SQL, text(v.Template), err)
				continue
			}
			g.passed++
			total.passed++
		}
		if err := lines.Err(); err != nil {
			t.Fatal(err)
		}
	}
	if total.passed+total.failed == 0 {
		t.Fatalf("no conformance vectors in %s", dir)
	}
	names := make([]string, 0, len(groups))
	for name := range groups {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Printf("%-32s %4d passed %4d failed\n", name, groups[name].passed, groups[name].failed)
	}
	fmt.Printf("%-32s %4d passed %4d failed\n", "all", total.passed, total.failed)
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return " " + *s
}

func (v *vector) event() (*event.Event, error) {
	e := &event.Event{
		Topic: topic.Name(v.Topic), ClientID: v.ClientID, Principal: v.Principal, SourceIP: v.SourceIP,
		Received: time.Now().UTC().Truncate(time.Millisecond), Seq: 7, QoS: 1,
	}
	if v.Protocol == "http" {
		e.Protocol = event.HTTP
	}
	switch {
	case v.PayloadText != nil:
		e.Payload = []byte(*v.PayloadText)
	case v.PayloadBase64 != nil:
		b, err := base64.StdEncoding.DecodeString(*v.PayloadBase64)
		if err != nil {
			return nil, err
		}
		e.Payload = b
	default:
		e.Payload = v.Payload
	}
	if v.MQTT != nil || v.UserProperties != nil {
		e.Props = &event.Properties{}
		for _, p := range v.UserProperties {
			e.Props.User = append(e.Props.User, event.UserProperty{Key: p[0], Value: p[1]})
		}
	}
	if v.MQTT != nil {
		e.Props.ContentType, e.Props.ResponseTopic = v.MQTT.ContentType, v.MQTT.ResponseTopic
		e.Props.PayloadUTF8 = v.MQTT.PayloadFormatIndicator == "UTF8_DATA"
		b, err := base64.StdEncoding.DecodeString(v.MQTT.CorrelationDataBase64)
		if err != nil {
			return nil, err
		}
		e.Props.CorrelationData = b
	}
	return e, nil
}

// run returns why v fails.
func (v *vector) run() error {
	e, err := v.event()
	if err != nil {
		return err
	}
	src := v.SQL
	if src == "" && v.Template != nil {
		src = fmt.Sprintf("SELECT * FROM '%s'", v.Topic)
	}
	account := v.AccountID
	if account == "" {
		account = "123456789012"
	}
	var prog *eval.Program
	stmt, err := sql.Parse(src)
	if err == nil {
		prog, _, err = eval.Compile(stmt, eval.Options{
			Version: v.SQLVersion, RuleName: v.RuleName, AccountID: account,
			Lookups: eval.Lookups{Table: noItems{}},
		})
	}
	if v.ExpectParseError {
		if err == nil {
			return errors.New("accepted, want a rejection")
		}
		var at *sql.Error
		if !errors.As(err, &at) || at.Line < 1 || at.Msg == "" {
			return fmt.Errorf("rejected with %v, want an error with a place", err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	ctx, m := context.Background(), eval.NewMachine()
	if v.Template != nil {
		t, err := eval.CompileTemplate(*v.Template, prog)
		if err != nil {
			return err
		}
		got, err := t.Execute(ctx, m, e)
		switch {
		case err != nil:
			return err
		case v.ExpectString != nil && got != *v.ExpectString:
			return fmt.Errorf("got %q, want %q", got, *v.ExpectString)
		case v.ExpectMatchString != nil && !regexp.MustCompile(*v.ExpectMatchString).MatchString(got):
			return fmt.Errorf("got %q, want a match of %s", got, *v.ExpectMatchString)
		case v.ExpectString == nil && v.ExpectMatchString == nil:
			return errors.New("the vector expects nothing")
		}
		return nil
	}
	acts := prog.Matches(e.Topic) || v.RuleName != ""
	var got []byte
	if acts {
		if got, acts, err = prog.Eval(ctx, m, e); err != nil {
			return err
		}
	}
	if v.ExpectNoAction {
		if acts {
			return fmt.Errorf("acts with %s, want no action", got)
		}
		return nil
	}
	if !acts {
		return errors.New("does not act")
	}
	switch {
	case v.ExpectText != nil:
		if string(got) != *v.ExpectText {
			return fmt.Errorf("got %q, want %q", got, *v.ExpectText)
		}
	case v.ExpectBase64 != nil:
		if s := base64.StdEncoding.EncodeToString(got); s != *v.ExpectBase64 {
			return fmt.Errorf("got %s, want %s", s, *v.ExpectBase64)
		}
	case v.Expect != nil:
		want, err := decode(v.Expect)
		if err != nil {
			return err
		}
		have, err := decode(got)
		if err != nil {
			return fmt.Errorf("got %q: %w", got, err)
		}
		if !same(have, want, v.Tolerance) {
			return fmt.Errorf("got %s, want %s", got, v.Expect)
		}
	case v.ExpectMatch != nil || v.ExpectAbsent != nil:
		members := make(map[string]json.RawMessage)
		if err := json.Unmarshal(got, &members); err != nil {
			return fmt.Errorf("got %q: %w", got, err)
		}
		for name, pattern := range v.ExpectMatch {
			raw, ok := members[name]
			if !ok {
				return fmt.Errorf("got %s, want a member %s", got, name)
			}
			var s string
			if json.Unmarshal(raw, &s) != nil {
				s = string(raw)
			}
			if !regexp.MustCompile(pattern).MatchString(s) {
				return fmt.Errorf("got %s, want %s to match %s", got, name, pattern)
			}
		}
		for _, name := range v.ExpectAbsent {
			if _, ok := members[name]; ok {
				return fmt.Errorf("got %s, want no member %s", got, name)
			}
		}
	default:
		return errors.New("the vector expects nothing")
	}
	return nil
}

// noItems is a table without items.
type noItems struct{}

func (noItems) Item(context.Context, string, eval.TableKey, *eval.TableKey, string) ([]byte, error) {
	return nil, nil
}

func decode(b []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var x any
	if err := d.Decode(&x); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("more than one JSON value")
	}
	return x, nil
}

// same compares decoded JSON: numbers by value, within tolerance if given.
func same(a, b any, tolerance json.Number) bool {
	switch a := a.(type) {
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for k, x := range a {
			y, ok := b[k]
			if !ok || !same(x, y, tolerance) {
				return false
			}
		}
		return true
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, func(x, y any) bool { return same(x, y, tolerance) })
	case json.Number:
		b, ok := b.(json.Number)
		if !ok {
			return false
		}
		x, _, err1 := apd.NewFromString(a.String())
		y, _, err2 := apd.NewFromString(b.String())
		if err1 != nil || err2 != nil {
			return false
		}
		if tolerance == "" {
			return x.Cmp(y) == 0
		}
		limit, _, err := apd.NewFromString(tolerance.String())
		if err != nil {
			return false
		}
		var d apd.Decimal
		if _, err := apd.BaseContext.WithPrecision(100).Sub(&d, x, y); err != nil {
			return false
		}
		return d.Abs(&d).Cmp(limit) <= 0
	}
	return a == b
}
