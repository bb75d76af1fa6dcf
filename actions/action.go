package actions

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
)

// Result is what a rule made of one event: the unit of delivery. It is
// immutable and shared; a repeat of it carries the same ID.
type Result struct {
	ID      event.ID // of the event; together with Rule it identifies the result
	Rule    string
	Event   *event.Event // the original message; templates are evaluated against it
	Payload []byte       // what the statement selected, or the failure document for an error action; do not modify
}

// Action delivers results to one destination.
type Action interface {
	// Deliver returns when the destination has confirmed the batch; nil means all
	// of it. A *BatchError names the results that failed, any other error stands
	// for all. The error's class decides what follows: see Permanent, Unreachable
	// and RetryAfter; an error without a class is an answered failure, counted as
	// one try.
	//
	// A batch has 1 to Spec.BatchMax results, in the order of their events. Up to
	// Spec.MaxInFlight calls run at a time; results of one ordering key are never
	// in two of them. ctx carries the lane's time limit for this try. A result is
	// delivered at least once: Deliver bears repeats. The batch slice is the
	// lane's again after the return.
	Deliver(ctx context.Context, batch []*Result) error

	// Close lets go of what the action holds. No Deliver runs or follows.
	Close(ctx context.Context) error
}

// Spec says how a lane drives an action. The zero value of a field means the
// default.
type Spec struct {
	MaxInFlight int           // concurrent Deliver calls; default 8
	BatchMax    int           // results a batch; default 1
	BatchBytes  int           // payload bytes a batch, a single larger result goes alone; default 1 MiB
	BatchLinger time.Duration // how long a batch that is not full waits for more; default 0
	MaxTries    int           // answered failures of one result before it is given up; default 3
	Timeout     time.Duration // of one Deliver; default 30 s
	Resource    string        // failedResource of the failure document: bucket, table, URL, topic; may hold a template's text
}

// Kind is one kind of action. It is a value, listed by actions/install.
type Kind struct {
	Name    string // the key in a rule's actions: "republish", "http", "s3", "dynamoDB", "dynamoDBv2"
	Summary string // one sentence for the reference
	Fields  []Field

	// New validates raw completely, compiles its templates and returns the action
	// with its Spec; it connects to nothing. raw holds the action's own object.
	// Errors name the field: see Decode and FieldError.
	New func(ctx context.Context, env Env, raw json.RawMessage) (Action, Spec, error)
}

// Env is what an action gets from its surroundings.
type Env struct {
	Rule      string
	AccountID string
	Region    string
	Logger    *slog.Logger

	// Template compiles the text of a field with substitution templates, ${…}, in
	// the scope of the rule's statement. The error knows its position in src.
	Template func(src string) (Template, error)

	// Publish appends an event to the log and returns when it is committed. The
	// caller sets Hops to the source's plus one and keeps the source's ordering key.
	Publish func(ctx context.Context, e *event.Event) error

	// PublishAll is Publish for many: it appends the events in their order, waits
	// for all and returns one error for each, nil where it was committed. Events
	// behind one that failed fail too. nil: Publish is used one by one.
	PublishAll func(ctx context.Context, events []*event.Event) []error

	// TopicLimits bound the topic names results are published on.
	TopicLimits topic.Limits

	// AWS returns the configuration of the standard AWS environment;
	// AWS_ENDPOINT_URL and AWS_ENDPOINT_URL_<SERVICE> are honoured.
	AWS func(ctx context.Context) (aws.Config, error)

	// AllowPrivate lets webhooks dial loopback and private addresses, and use
	// plain http. Link-local addresses (metadata services) stay closed.
	AllowPrivate bool

	// AllowNetworks are networks webhooks may dial although they are private, over
	// plain http too.
	AllowNetworks []netip.Prefix

	// Destinations knows the confirmed HTTP destinations; nil: none can be had.
	Destinations Destinations

	// Functions are those deployed here; nil: none.
	Functions Functions
}

// Functions runs functions by name or ARN.
type Functions interface {
	// Has reports whether function is deployed here.
	Has(function string) bool
	// Do runs it on payload and returns when it has answered; id is the
	// invocation's, the same in every repeat. A function that failed is
	// errs.Invalid, or errs.Timeout where its time was up; errs.Quota and
	// errs.Unavailable say that it could not be asked now.
	Do(ctx context.Context, function, id string, payload []byte) error
}

// Template is a compiled text with substitution templates. It is immutable and
// safe for concurrent use.
type Template interface {
	// Literal returns the text of a template without ${…}.
	Literal() (text string, ok bool)
	// Execute evaluates the template against the original message.
	Execute(ctx context.Context, e *event.Event) (string, error)
}

// Destinations are the HTTP endpoints that may receive results, each confirmed
// by its owner.
type Destinations interface {
	// Confirm asks for a destination at confirmationURL. It returns at once where
	// there is one already, confirmed or not.
	Confirm(ctx context.Context, confirmationURL string) error
	// Enabled reports whether url lies below a confirmed, enabled destination.
	Enabled(ctx context.Context, url string) (bool, error)
}
