package fault_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/test/fault"
	"github.com/weir-iot/weir/test/natstest"
	"github.com/weir-iot/weir/test/weirtest"
)

const republishRules = `
ruleName: fleet
sql: SELECT * FROM 'fault/+/telemetry' WHERE value >= 50
awsIotSqlVersion: '2016-03-23'
actions:
  - republish: {topic: 'results/${topic(2)}', qos: 1}
---
ruleName: marks
sql: SELECT * FROM 'mark/#'
awsIotSqlVersion: '2016-03-23'
actions:
  - republish: {topic: 'seen', qos: 1}
`

// Gateway, rules (twice) and control run as four processes around one NATS
// server. Each is killed once while devices publish. Nothing acknowledged is
// lost, no result is missing, and rules go on within seconds in the process that
// is left.
func TestRolesAsProcesses(t *testing.T) {
	if testing.Short() {
		t.Skip("several processes, for some ten seconds")
	}
	url := natstest.Start(t).URL()
	process := func(role string) *weirtest.Weir {
		return weirtest.Process(t, weirtest.Roles(url, role), weirtest.Production(), weirtest.Durability("disk"))
	}
	api, gateway := process("registry"), process("ingest")
	engines := []*weirtest.Weir{process("rules"), process("rules")}
	api.Apply(republishRules)
	if _, err := gateway.API().Rules(t.Context()); err == nil {
		t.Error("the process with the role ingest answers for the role registry")
	}

	var addr fault.Address
	addr.Set(gateway.Endpoints().MQTT)
	ledger := fault.NewLedger()
	fleet := &fault.Fleet{Addr: addr.Get, Devices: 8, Window: 20, Version: 5, Prefix: "d", Pause: 5 * time.Millisecond, Ledger: ledger}
	fleet.Start()
	progress := func() {
		t.Helper()
		_, before := ledger.Totals()
		weirtest.Eventually(t, func() bool { _, n := ledger.Totals(); return n > before+200 },
			func() string { return "the devices are not acknowledged any more" })
	}
	progress()
	seen := gateway.Subscribe("seen")
	if list, err := api.API().Clients(t.Context(), "", 100); err != nil || len(list) < 9 {
		t.Errorf("the control API knows %d clients of the gateway, %v", len(list), err)
	}
	for i, e := range engines {
		e.Kill()
		began := time.Now()
		gateway.MustPublish(fmt.Sprint("mark/", i), fmt.Sprintf(`{"mark": %d}`, i))
		if m := seen.Next(); string(m.Payload) != fmt.Sprintf(`{"mark":%d}`, i) && string(m.Payload) != fmt.Sprintf(`{"mark": %d}`, i) {
			t.Errorf("mark %d: %s", i, m.Payload)
		}
		t.Logf("rules went on %v after a kill", time.Since(began).Round(time.Millisecond))
		if d := time.Since(began); d > 10*time.Second {
			t.Errorf("rules went on after %v", d)
		}
		e.BeginProcess()
		progress()
	}
	gateway.Kill()
	gateway.BeginProcess()
	addr.Set(gateway.Endpoints().MQTT)
	progress()
	api.Kill()
	progress()
	api.BeginProcess()
	fleet.Stop()

	account := api.Account("fleet")
	if account.Matched != account.Delivered || account.Matched == 0 {
		t.Errorf("the account does not add up: %+v", account)
	}
	payloads := func(filter string) (all [][]byte) {
		t.Helper()
		err := api.API().Tail(t.Context(), control.TailOptions{Filter: filter, Since: time.Unix(1, 0)}, func(l *control.TailLine, _ []byte) error {
			all = append(all, append([]byte(nil), l.Payload...))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	if r := ledger.Check(payloads("fault/+/telemetry"), nil, false); !r.OK() {
		t.Error("on the log: ", r)
	} else {
		t.Log("on the log: ", r)
	}
	if r := ledger.Check(payloads("results/+"), func(m fault.Message) bool { return m.Value >= 50 }, true); !r.OK() {
		t.Error("results: ", r)
	} else {
		t.Log("results: ", r)
	}
}
