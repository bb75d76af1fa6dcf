package azure

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/kv"
	"github.com/weir-iot/weir/internal/topic"
)

// feedback is what became of a message whose sender wants to know.
type feedback struct {
	OriginalMessageID  string `json:"originalMessageId"`
	Description        string `json:"description"`
	DeviceGenerationID string `json:"deviceGenerationId"`
	DeviceID           string `json:"deviceId"`
	EnqueuedTimeUTC    string `json:"enqueuedTimeUtc"` // of the outcome
	StatusCode         string `json:"statusCode"`
}

var descriptions = map[outcome]string{
	delivered: "Success", expired: "Message expired", deadLettered: "Maximum delivery count exceeded", purged: "Message purged",
}

func feedbackOf(s *settlement) feedback {
	return feedback{
		OriginalMessageID: s.parcel.id, Description: descriptions[s.Outcome], DeviceGenerationID: s.generation,
		DeviceID: s.parcel.device, EnqueuedTimeUTC: stamp(s.at), StatusCode: string(s.Outcome),
	}
}

// feedbackTopic is where the feedback of a device's messages is published.
func feedbackTopic(device string) topic.Name { return topic.Name(root(device, "") + "/feedback") }

var feedbackFilter = []topic.Filter{"$azure/devices/+/feedback"}

// Bounds of one batch of feedback.
const (
	maxFeedback  = 64
	feedbackLock = time.Minute // for whoever received it to complete it
)

// reader is where the service side is in the feedback, which is on the log: as
// everybody reads the same queue, there is one. It is a record of the bucket.
type reader struct {
	After []uint64  `json:"after"` // by partition: completed up to here
	Lock  string    `json:"lock,omitempty"`
	Until time.Time `json:"until,omitzero"` // of the lock
	Upto  []uint64  `json:"upto,omitempty"` // what the lock is for
}

const readerKey = "feedback.reader"

// reader returns the record and its revision.
func (h *Hub) reader(ctx context.Context) (*reader, uint64, error) {
	r := &reader{}
	e, err := h.o.Bucket.Get(ctx, readerKey)
	if err != nil && !errs.Is(err, errs.NotFound) {
		return nil, 0, errs.E("azure.Feedback", errs.KindOf(err), err)
	}
	if err == nil {
		if err := json.Unmarshal(e.Value, r); err != nil {
			return nil, 0, errs.E("azure.Feedback", errs.Internal, err)
		}
	}
	n := h.o.Log.Partitions()
	r.After = append(r.After, make([]uint64, n)...)[:n]
	return r, e.Revision, nil
}

func (h *Hub) saveReader(ctx context.Context, r *reader, revision uint64) error {
	value, err := json.Marshal(r)
	if err != nil {
		return errs.E("azure.Feedback", errs.Internal, err)
	}
	if _, err := h.o.Bucket.Commit(ctx, []kv.Change{{Key: readerKey, Value: value, Expected: revision}}); err != nil {
		return errs.E("azure.Feedback", errs.KindOf(err), err)
	}
	return nil
}

// receiveFeedback returns the oldest feedback nobody has completed, and the lock
// to complete it with; none where there is none, or another one has it.
func (h *Hub) receiveFeedback(ctx context.Context) (list []feedback, lock string, err error) {
	r, revision, err := h.reader(ctx)
	if err != nil || r.Lock != "" && h.now().Before(r.Until) {
		return nil, "", err
	}
	r.Upto = nil
	for p, after := range r.After {
		some, upto, err := h.readFeedback(ctx, p, after, maxFeedback-len(list))
		if err != nil {
			return nil, "", err
		}
		list, r.Upto = append(list, some...), append(r.Upto, upto)
	}
	if len(list) == 0 {
		if far(r.After, r.Upto) { // whoever asks again and again need not read it all again
			err = h.saveReader(ctx, &reader{After: r.Upto}, revision)
		}
		if errs.Is(err, errs.Conflict) {
			err = nil
		}
		return nil, "", err
	}
	var b [16]byte
	rand.Read(b[:])
	r.Lock, r.Until = hex.EncodeToString(b[:]), h.now().Add(feedbackLock).UTC()
	if err := h.saveReader(ctx, r, revision); errs.Is(err, errs.Conflict) {
		return nil, "", nil // another one was quicker
	} else if err != nil {
		return nil, "", err
	}
	return list, r.Lock, nil
}

// far reports whether positions have moved by so much that it pays to save them.
func far(from, to []uint64) bool {
	for p := range to {
		if to[p] >= from[p]+1000 {
			return true
		}
	}
	return false
}

// readFeedback reads up to most of one partition.
func (h *Hub) readFeedback(ctx context.Context, p int, after uint64, most int) (list []feedback, upto uint64, err error) {
	upto = min(after, h.o.Log.Committed(p)) // a lost tail's sequences are used again
	if most <= 0 {
		return nil, upto, nil
	}
	f, err := h.o.Log.Follow(eventlog.FollowOptions{Partition: p, After: upto, Filters: feedbackFilter, ToEnd: true})
	if err != nil {
		return nil, 0, errs.E("azure.Feedback", errs.KindOf(err), err)
	}
	defer f.Close()
	for len(list) < most {
		batch, at, err := f.Next(ctx, most-len(list))
		var gap *eventlog.GapError
		switch {
		case errors.Is(err, io.EOF):
			return list, max(upto, f.Position()), nil
		case errors.As(err, &gap):
			continue
		case err != nil:
			return nil, 0, errs.E("azure.Feedback", errs.KindOf(err), err)
		}
		for _, e := range batch {
			var some []feedback
			if json.Unmarshal(e.Payload, &some) == nil {
				list = append(list, some...)
			}
		}
		upto = at
	}
	return list, upto, nil
}

// finishFeedback completes what a lock is for, or gives it back.
func (h *Hub) finishFeedback(ctx context.Context, lock string, complete bool) error {
	r, revision, err := h.reader(ctx)
	if err != nil {
		return err
	}
	if r.Lock == "" || r.Lock != lock || !h.now().Before(r.Until) {
		return fail(412, 412003, "DeviceMessageLockLost", "the lock of the feedback is not held any more")
	}
	if complete {
		r.After = r.Upto
	}
	return h.saveReader(ctx, &reader{After: r.After}, revision)
}

// feedback answers GET /messages/serviceBound/feedback.
func (a *request) feedback() error {
	list, lock, err := a.h.receiveFeedback(a.r.Context())
	if err != nil {
		return err
	}
	if len(list) == 0 {
		a.w.WriteHeader(http.StatusNoContent)
		return nil
	}
	a.w.Header().Set("ETag", `"`+lock+`"`)
	a.json(200, list)
	return nil
}

// complete answers DELETE /messages/serviceBound/feedback/<lock>.
func (a *request) complete() error { return a.finish(true) }

// abandon answers POST /messages/serviceBound/feedback/<lock>/abandon.
func (a *request) abandon() error { return a.finish(false) }

func (a *request) finish(complete bool) error {
	if err := a.h.finishFeedback(a.r.Context(), a.path[3], complete); err != nil {
		return err
	}
	a.w.WriteHeader(http.StatusNoContent)
	return nil
}
