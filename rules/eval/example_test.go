package eval_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/rules/eval"
	"github.com/weir-iot/weir/rules/sql"
)

func Example() {
	stmt, err := sql.Parse(`SELECT deviceId, temperature * 1.8 + 32 AS f, topic(2) AS site
		FROM 'factory/+/telemetry' WHERE temperature > 40`)
	if err != nil {
		panic(err)
	}
	prog, _, err := eval.Compile(stmt, eval.Options{Version: "2016-03-23", RuleName: "hot"})
	if err != nil {
		panic(err)
	}
	m := eval.NewMachine() // one for each goroutine
	for _, payload := range []string{`{"deviceId": "d1", "temperature": 41.3}`, `{"deviceId": "d2", "temperature": 20}`} {
		e := &event.Event{Topic: "factory/7/telemetry", Payload: []byte(payload), Received: time.UnixMilli(1700000000000), Seq: 1}
		out, ok, err := prog.Eval(context.Background(), m, e)
		fmt.Println(string(out), ok, err)
	}
	// Output:
	// {"deviceId":"d1","f":106.34,"site":"7"} true <nil>
	//  false <nil>
}

// A mistake has its place, and mostly a hint.
func ExampleCompile() {
	stmt, err := sql.Parse(`SELECT uper(name) AS name FROM 'a/b'`)
	if err != nil {
		panic(err)
	}
	_, _, err = eval.Compile(stmt, eval.Options{Version: "2016-03-23"})
	var mistake *sql.Error
	if errors.As(err, &mistake) {
		fmt.Println(mistake.Detail())
	}
	// Output:
	// 1:8: unknown function uper
	//   SELECT uper(name) AS name FROM 'a/b'
	//          ^^^^
	// hint: did you mean upper?
}

// Templates see the original message and the variables of SET.
func ExampleCompileTemplate() {
	stmt, err := sql.Parse(`SET @day = parse_time('yyyy/MM/dd', timestamp()) SELECT * FROM 'a/+'`)
	if err != nil {
		panic(err)
	}
	prog, _, err := eval.Compile(stmt, eval.Options{Version: "2016-03-23"})
	if err != nil {
		panic(err)
	}
	key, err := eval.CompileTemplate(`${@day}/${topic(2)}/${id}.json`, prog)
	if err != nil {
		panic(err)
	}
	e := &event.Event{Topic: "a/b", Payload: []byte(`{"id": 7}`), Received: time.UnixMilli(1700000000000), Seq: 1}
	fmt.Println(key.Execute(context.Background(), eval.NewMachine(), e))
	// Output: 2023/11/14/b/7.json <nil>
}

// Explain says why a rule does not act.
func ExampleProgram_Explain() {
	stmt, err := sql.Parse(`SELECT * FROM 'a/+' WHERE temperature > 40 AND status = 'ok'`)
	if err != nil {
		panic(err)
	}
	prog, _, err := eval.Compile(stmt, eval.Options{Version: "2016-03-23"})
	if err != nil {
		panic(err)
	}
	e := &event.Event{Topic: "a/b", Payload: []byte(`{"temperature": 41.3, "state": "ok"}`)}
	fmt.Println(prog.Explain(context.Background(), eval.NewMachine(), e).Text())
	// Output:
	// topic    a/b matches a/+
	// where    temperature > 40 AND status = 'ok' → Undefined
	//          ├─ temperature > 40                → true
	//          │  └─ temperature                  → 41.3
	//          └─ status = 'ok'                   → Undefined
	//             └─ status                       → Undefined  (no such member)
	// result   no action: WHERE is Undefined, not true
}
