package azure

import (
	"testing"

	"github.com/weir-iot/weir/internal/errs"
)

func TestTwinStatus(t *testing.T) {
	for kind, want := range map[errs.Kind]int{
		errs.Invalid: 400, errs.TooLarge: 400, errs.Conflict: 412, errs.Exists: 412, errs.Quota: 429, errs.Unavailable: 503,
		errs.Timeout: 504, errs.Internal: 500,
	} {
		if got := twinStatus(errs.Errorf("test", kind, "x")); got != want {
			t.Errorf("%v: %d, want %d", kind, got, want)
		}
	}
}
