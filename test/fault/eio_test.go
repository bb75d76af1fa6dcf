package fault_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/weir-iot/weir/test/fault"
	"github.com/weir-iot/weir/test/weirtest"
)

// A disk that fails every write and every sync gets nothing acknowledged: the
// file system is stopped while Weir goes on running.
func TestFailingDisk(t *testing.T) {
	fs := fault.NewLoopFS(t, 512<<20)
	w := weirtest.Process(t, weirtest.Durability("disk"), weirtest.Dir(filepath.Join(fs.Dir, "data")))
	var addr fault.Address
	addr.Set(w.Endpoints().MQTT)
	fleet := fault.Fleet{Addr: addr.Get, Devices: 20, Window: 32, Prefix: "eio", Pause: 2 * time.Millisecond, Ledger: fault.NewLedger()}
	fleet.Start()
	for range rounds(3) {
		_, before := fleet.Ledger.Totals()
		weirtest.Eventually(t, func() bool { _, acked := fleet.Ledger.Totals(); return acked > before+500 }, func() string { return "no message was acknowledged" })
		fs.PowerCut()
		_, at := fleet.Ledger.Totals()
		time.Sleep(1500 * time.Millisecond)
		_, after := fleet.Ledger.Totals()
		t.Logf("%d acknowledged when the disk failed, %d after 1.5 s", at, after)
		w.Kill()
		fs.Remount()
		w.BeginProcess()
		addr.Set(w.Endpoints().MQTT)
	}
	fleet.Stop()
	check(t, w, fleet.Ledger, nil, "")
	w.Stop()
}
