package preview

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
	"github.com/weir-iot/weir/rules/eval"
	"github.com/weir-iot/weir/rules/sql"
)

func program(t *testing.T) *eval.Program {
	t.Helper()
	stmt, err := sql.Parse("SELECT * FROM 'a/#'")
	if err != nil {
		t.Fatal(err)
	}
	p, _, err := eval.Compile(stmt, eval.Options{Version: "2016-03-23", RuleName: "r"})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func message(payload string) *event.Event {
	return &event.Event{Topic: "a/b c", Payload: []byte(payload), ClientID: "c1", Seq: 1, Received: time.UnixMilli(0)}
}

// TestRender shows each kind with a message it takes and one it refuses.
func TestRender(t *testing.T) {
	for _, c := range []struct {
		kind, params, payload string
		want, err             string
	}{
		{"republish", `{"topic": "x/${id}", "qos": 1}`, `{"id": 7}`, `{"topic":"x/7","qos":1}`, ""},
		{"republish", `{"topic": "x/${id}"}`, `{"id": "+"}`, `{"topic":"x/+"}`, "wildcard"},
		{"republish", `{"topic": "$$aws/things/${id}/shadow/update"}`, `{"id": "t"}`, `{"topic":"$aws/things/t/shadow/update"}`, ""},
		{"republish", `{"topic": "x", "headers": {"messageExpiry": "${id}"}}`, `{"id": "soon"}`, `{"topic":"x","headers":{"messageExpiry":"soon"}}`, "messageExpiry"},
		{"republish", `{"topic": "${id}"}`, `{"id": "` + strings.Repeat("long", 70) + `"}`, `{"topic":"` + strings.Repeat("long", 70) + `"}`, "256"},
		{"http", `{"url": "https://h.example/${topic(2)}?q=${id}", "confirmationUrl": "https://h.example/", "headers": [{"key": "x", "value": "${id}"}]}`, `{"id": "a&b"}`,
			`{"url":"https://h.example/b%20c?q=a%26b","confirmationUrl":"https://h.example/","headers":[{"key":"x","value":"a&b"}]}`, ""},
		{"http", `{"url": "https://h.example/${id}", "confirmationUrl": "https://h.example/"}`, `{"id": ".."}`, `{"url":"https://h.example/..","confirmationUrl":"https://h.example/"}`, `the level ".."`},
		{"s3", `{"bucketName": "b-1", "key": "${topic(2)}/${id}"}`, `{"id": 1.5}`, `{"bucketName":"b-1","key":"b c/1.5"}`, ""},
		{"s3", `{"bucketName": "b-1", "key": "${id}"}`, `{}`, `{"bucketName":"b-1","key":""}`, "the key is empty"},
		{"s3", `{"bucketName": "${id}", "key": "k"}`, `{"id": "Big"}`, `{"bucketName":"Big","key":"k"}`, "not a bucket name"},
		{"dynamoDB", `{"tableName": "ttt", "hashKeyField": "h", "hashKeyValue": "${id}", "hashKeyType": "NUMBER"}`, `{"id": 5}`,
			`{"tableName":"ttt","hashKeyField":"h","hashKeyValue":"5","hashKeyType":"NUMBER"}`, ""},
		{"dynamoDB", `{"tableName": "ttt", "hashKeyField": "h", "hashKeyValue": "${id}", "hashKeyType": "NUMBER"}`, `{"id": "five"}`,
			`{"tableName":"ttt","hashKeyField":"h","hashKeyValue":"five","hashKeyType":"NUMBER"}`, "not a number"},
		{"dynamoDBv2", `{"putItem": {"tableName": "t-${id}"}}`, `{"id": 5}`, `{"putItem":{"tableName":"t-5"}}`, ""},
		{"dynamoDBv2", `{"putItem": {"tableName": "ttt"}}`, `[1]`, `{"putItem":{"tableName":"ttt"}}`, "object"},
	} {
		a, err := New(t.Context(), Options{Rule: "r", Kind: c.kind, Params: []byte(c.params), Program: program(t), Topics: topic.Limits{Bytes: 256, Slashes: 7}})
		if err != nil {
			t.Errorf("%s %s: %v", c.kind, c.params, err)
			continue
		}
		got, err := a.Render(t.Context(), message(c.payload), []byte(c.payload))
		if string(got) != c.want {
			t.Errorf("%s %s over %s:\ngot  %s\nwant %s", c.kind, c.params, c.payload, got, c.want)
		}
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s %s over %s: error %v, want %q", c.kind, c.params, c.payload, err, c.err)
		}
		if err := a.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestNewMistakes(t *testing.T) {
	for _, c := range []struct{ kind, params, want string }{
		{"s33", `{}`, `unknown action "s33"`},
		{"s3", `{"bucketName": "b-1"}`, `"key" is missing`},
		{"s3", `{"bucketName": "b-1", "key": "${nope()}"}`, "unknown function nope"},
		{"republish", `{"topic": "a", "qoss": 1}`, `unknown key "qoss"`},
	} {
		_, err := New(t.Context(), Options{Rule: "r", Kind: c.kind, Params: []byte(c.params), Program: program(t)})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s: %v, want %s", c.kind, c.params, err, c.want)
		}
	}
	stmt, err := sql.Parse("SELECT * FROM 'a'")
	if err != nil {
		t.Fatal(err)
	}
	p, _, err := eval.Compile(stmt, eval.Options{Version: "2016-03-23", Lookups: eval.Lookups{Lambda: nil}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = New(t.Context(), Options{Kind: "republish", Params: []byte(`{"topic": "${aws_lambda('f', 1)}"}`), Program: p, ErrorAction: true})
	if err == nil || !strings.Contains(err.Error(), "an error action cannot") {
		t.Errorf("a look-up in an error action: %v", err)
	}
}

// TestConcurrent renders with one action in several goroutines.
func TestConcurrent(t *testing.T) {
	a, err := New(t.Context(), Options{Rule: "r", Kind: "republish", Params: []byte(`{"topic": "x/${id}"}`), Program: program(t)})
	if err != nil {
		t.Fatal(err)
	}
	if got := a.Templates(); len(got) != 1 || got[0] != "topic" {
		t.Errorf("templates %v", got)
	}
	var wg sync.WaitGroup
	for _, id := range []string{"1", "2", "3", "4"} {
		wg.Go(func() {
			for range 200 {
				got, err := a.Render(t.Context(), message(`{"id": `+id+`}`), nil)
				if err != nil || string(got) != `{"topic":"x/`+id+`"}` {
					t.Errorf("%s: %s %v", id, got, err)
					return
				}
			}
		})
	}
	wg.Wait()
}
