package rulefile

import (
	"errors"
	"strings"
	"testing"

	"github.com/weir-iot/weir/rules/sql"
)

const good = `ruleName: hot
sql: >-
  SELECT *
  FROM 'a'
actions:
  - s3: {bucketName: b, key: 'x/${topik(1)}'}
`

func TestRead(t *testing.T) {
	f, err := Read("hot.yaml", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	r := f.Rule
	if r.Name != "hot" || r.SQL != "SELECT * FROM 'a'" || len(r.Actions) != 1 || r.Actions[0].Kind != "s3" ||
		string(r.Actions[0].Params) != `{"bucketName":"b","key":"x/${topik(1)}"}` {
		t.Errorf("%+v", r)
	}
	if r.ErrorAction != nil || r.Disabled {
		t.Errorf("%+v", r)
	}
}

func TestReadMistakes(t *testing.T) {
	for _, c := range []struct{ src, want string }{
		{"sql: x", "the rule has no name"},
		{"ruleName: a-b\nsql: x", "only letters, digits and _"},
		{"ruleName: a", "the rule has no statement"},
		{"ruleName: a\nsql: x", "the rule has no action"},
		{"ruleName: a\nsql: x\nactions: {}", "expected a list"},
		{"ruleName: a\nsql: x\nactions: [s3]", "expected keys and values"},
		{"ruleName: a\nsql: x\nactions: [{s3: {}, http: {}}]", "this one has 2"},
		{"ruleName: a\nsql: x\nactions: [{s3: 1}]", "s3: expected keys and values"},
		{"ruleName: a\nsql: x\nawsIotSqlVersion: 2016", "expected a text"},
		{"ruleName: a\nsql: x\nruleDisabled: no thanks", "expected true or false"},
		{"ruleName: a\nsqll: x", `unknown key "sqll"`},
		{"- a", "expected keys and values, found a list"},
		{"ruleName: a\nsql: x\nactions:\n" + strings.Repeat("  - s3: {}\n", 11), "at most 10 actions"},
	} {
		if _, err := Read("f.yaml", []byte(c.src)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v; want %s", c.src, err, c.want)
		}
	}
}

type fieldErr struct {
	path   []string
	offset int
}

func (e *fieldErr) Error() string       { return "wrong" }
func (e *fieldErr) FieldPath() []string { return e.path }
func (e *fieldErr) FieldOffset() int    { return e.offset }
func (e *fieldErr) FieldMsg() string    { return "wrong" }
func (e *fieldErr) FieldHint() string   { return "mend it" }

func TestPlaces(t *testing.T) {
	f, err := Read("hot.yaml", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		err  error
		want string
	}{
		{f.InAction(0, &fieldErr{[]string{"key"}, 4}), "hot.yaml:6:35: s3: wrong"},
		{f.InAction(0, &fieldErr{[]string{"key"}, -1}), "hot.yaml:6:25: s3: wrong"},
		{f.InAction(0, &fieldErr{nil, -1}), "hot.yaml:6:10: s3: wrong"},
		{f.InAction(0, errors.New("odd")), "hot.yaml:6:5: odd"},
		{f.UnknownAction(0, ""), `hot.yaml:6:5: unknown action "s3"`},
		{f.InSQL(sql.At(f.Rule.SQL, sql.Span{From: 7, To: 8}, "", "bad")), "hot.yaml:2: sql 1:8: bad"},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
	if other := errors.New("x"); f.InSQL(other) != other {
		t.Error("an error that has no place was changed")
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(`{"ruleName": "a", "sql": "SELECT * FROM 'a'", "actions": [{"s3": {}}], "errorAction": {"s3": {}}}`))
	f.Fuzz(func(t *testing.T, src []byte) {
		file, err := Read("f", src)
		if err == nil && (file.Rule.Name == "" || len(file.Rule.Actions) == 0) {
			t.Fatalf("%q is read as %+v", src, file.Rule)
		}
	})
}
