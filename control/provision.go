package control

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/registry/provision"
)

var provisionRoutes = []route{
	{"GET /weir/v1/provision/log", false, (*Server).provisionLog},
}

// maxAttempts bounds what one request returns: the newest.
const maxAttempts = 1000

// provisionLog returns what became of devices' attempts to enrol, the oldest
// first. They are events of the log and kept as long as it is.
func (s *Server) provisionLog(w http.ResponseWriter, r *http.Request) error {
	const op = "control.provisionLog"
	q, err := query(r, "device", "since", "outcome", "max")
	if err != nil {
		return err
	}
	since := time.Now().Add(-24 * time.Hour)
	if v := q.Get("since"); v != "" {
		if since, err = time.Parse(time.RFC3339Nano, v); err != nil {
			return errs.Errorf(op, errs.Invalid, "since: expected a time as 2006-01-02T15:04:05Z, found %q", v)
		}
	}
	outcome := q.Get("outcome")
	if outcome != "" && outcome != "accepted" && outcome != "rejected" {
		return errs.Errorf(op, errs.Invalid, "outcome: expected accepted or rejected, found %q", outcome)
	}
	max, err := uintParam(q, "max", 100, maxAttempts)
	if err != nil {
		return err
	}
	if s.tails.Add(1) > maxTails {
		s.tails.Add(-1)
		return errs.Errorf(op, errs.Quota, "%d readers of the log are open, no more are served at a time", maxTails)
	}
	defer s.tails.Add(-1)
	ctx, cancel := context.WithTimeout(r.Context(), requestTime)
	defer cancel()
	out := []provision.Attempt{}
	err = s.o.Tailer.Tail(ctx, TailOptions{Filter: string(provision.Events), Since: since}, func(e *event.Event) error {
		if e.Protocol != event.Server {
			return nil
		}
		var a provision.Attempt
		if json.Unmarshal(e.Payload, &a) != nil {
			return nil
		}
		if (outcome == "" || a.Outcome == outcome) && concerns(&a, q.Get("device")) {
			if out = append(out, a); len(out) > int(max) {
				out = slices.Delete(out, 0, 1)
			}
		}
		return nil
	}, func(int, uint64, uint64) error { return nil })
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, struct {
		Attempts []provision.Attempt `json:"attempts"`
	}{out})
	return nil
}

// concerns reports whether an attempt is a device's: its thing, its client id,
// or the beginning of its certificate's id.
func concerns(a *provision.Attempt, device string) bool {
	return device == "" || a.Thing == device || a.ClientID == device || len(device) >= 8 && strings.HasPrefix(a.CertificateID, strings.ToLower(device))
}

// ProvisionLog returns what became of devices' attempts to enrol, the oldest
// first.
func (c *Client) ProvisionLog(ctx context.Context, q url.Values) ([]provision.Attempt, error) {
	var out struct {
		Attempts []provision.Attempt `json:"attempts"`
	}
	err := c.call(ctx, http.MethodGet, "/weir/v1/provision/log", q, nil, &out)
	return out.Attempts, err
}
