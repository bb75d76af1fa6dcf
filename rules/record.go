package rules

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/rules/lane"
)

// record is what is saved of a partition: its lease, and the positions and
// counters of all its lanes, in one entry so that they fit one another. Whoever
// writes must have read the revision it replaces: that fences a former owner.
type record struct {
	Owner string `json:"owner"`
	Epoch uint64 `json:"epoch"` // one more with each owner

	Position uint64                  `json:"position"`           // of the shared worker
	Versions map[uint64]savedVersion `json:"versions,omitempty"` // by revision: versions taken up
	Done     []uint64                `json:"done,omitempty"`     // closed versions that have drained here
	Past     map[string]lane.Counts  `json:"past,omitempty"`     // of drained versions, by rule/index/kind
}

// savedVersion is one version of a rule in one partition.
type savedVersion struct {
	Rule string `json:"rule"`
	From uint64 `json:"from"` // events behind this position are its own
	// Lanes holds the lanes that differ from what a missing one means: nothing
	// counted, all confirmed up to the record's Position.
	Lanes map[int]savedLane `json:"lanes,omitempty"`
}

type savedLane struct {
	Confirmed uint64 `json:"at"`
	lane.Counts
	DownSince *time.Time `json:"down,omitempty"`
}

func (s savedLane) state() lane.State {
	st := lane.State{Confirmed: s.Confirmed, Counts: s.Counts}
	if s.DownSince != nil {
		st.DownSince = *s.DownSince
	}
	return st
}

func recordKey(p int) string { return fmt.Sprintf("partition.%d", p) }

// loadRecord returns the record of a partition and its revision; a zero record
// where there is none.
func loadRecord(ctx context.Context, b Bucket, p int) (record, uint64, error) {
	e, err := b.Get(ctx, recordKey(p))
	if errs.Is(err, errs.NotFound) {
		return record{}, 0, nil
	}
	if err != nil {
		return record{}, 0, err
	}
	var r record
	if err := json.Unmarshal(e.Value, &r); err != nil {
		// Starting from nothing would deliver the whole log again, or skip it.
		return record{}, 0, errs.Errorf("rules.positions", errs.Internal, "the record %q cannot be read: %w", recordKey(p), err)
	}
	return r, e.Revision, nil
}
