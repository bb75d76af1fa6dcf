package fault_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/weir-iot/weir/test/fault"
	"github.com/weir-iot/weir/test/weirtest"
)

// On a disk that fails every write and every sync nothing is acknowledged any
// more. The file system is stopped while Weir goes on running; what it answers
// in the first moment may still be of syncs that were under way.
func TestFailingDisk(t *testing.T) {
	fs := fault.NewLoopFS(t, 512<<20)
	w := weirtest.Process(t, weirtest.Durability("disk"), weirtest.Dir(filepath.Join(fs.Dir, "data")))
	var addr fault.Address
	addr.Set(w.Endpoints().MQTT)
	fleet := fault.Fleet{Addr: addr.Get, Devices: 30, Window: 32, Prefix: "eio", Ledger: fault.NewLedger()}
	acked := func() int { _, n := fleet.Ledger.Totals(); return n }
	fleet.Start()
	defer fleet.Stop()
	for range rounds(2) {
		before := acked()
		weirtest.Eventually(t, func() bool { return acked() > before+500 }, func() string { return "no message was acknowledged" })
		fs.PowerCut()
		time.Sleep(300 * time.Millisecond)
		failed := acked()
		time.Sleep(time.Second)
		if n := acked(); n != failed {
			t.Errorf("%d messages were acknowledged on a disk that fails", n-failed)
		}
		w.Kill()
		fs.Remount()
		w.BeginProcess()
		addr.Set(w.Endpoints().MQTT)
	}
}
