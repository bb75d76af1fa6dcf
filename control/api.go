package control

import (
	"context"
	"encoding/json"
	"time"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/telemetry"
)

// Rules is the rule store with the engine's knowledge of each rule. Errors carry
// a kind: NotFound, Invalid, Conflict, Unavailable.
type Rules interface {
	// List returns every rule, sorted by name.
	List(ctx context.Context) ([]Rule, error)
	Get(ctx context.Context, name string) (*Rule, error)

	// Apply reads a file of rule documents, JSON or YAML, and makes or replaces
	// their rules. file is what errors call it. With a mistake in one of them, none
	// is stored. A document equal to the rule that stands changes nothing. With dry
	// nothing is stored.
	Apply(ctx context.Context, file string, content []byte, dry bool) ([]Applied, error)

	SetEnabled(ctx context.Context, name string, enabled bool) error
	Delete(ctx context.Context, name string) error
}

// Rule is a rule and what became of its results.
type Rule struct {
	Name        string          `json:"ruleName"`
	SQL         string          `json:"sql"`
	Description string          `json:"description,omitempty"`
	Enabled     bool            `json:"enabled"`
	Version     int             `json:"version"` // 1 for a new rule, one more for each change
	CreatedAt   time.Time       `json:"createdAt"`
	UpdatedAt   time.Time       `json:"updatedAt"`
	Document    json.RawMessage `json:"document,omitempty"` // as stored; Get only
	Problem     string          `json:"problem,omitempty"`  // why the rule does not run
	Lag         uint64          `json:"lag"`                // events of the log it has not settled yet
	Actions     []Lane          `json:"actions"`
}

// Account is what became of the results of a rule's action. Matched is the sum
// of the other four.
type Account struct {
	Matched        uint64 `json:"matched"`
	Delivered      uint64 `json:"delivered"`
	ErrorDelivered uint64 `json:"errorDelivered"` // by the error action
	Dead           uint64 `json:"dead"`
	Pending        uint64 `json:"pending"`
}

// Add adds b to a.
func (a *Account) Add(b Account) {
	a.Matched += b.Matched
	a.Delivered += b.Delivered
	a.ErrorDelivered += b.ErrorDelivered
	a.Dead += b.Dead
	a.Pending += b.Pending
}

// AddsUp reports whether every match is accounted for.
func (a Account) AddsUp() bool {
	return a.Matched == a.Delivered+a.ErrorDelivered+a.Dead+a.Pending
}

// Lane is one action of a rule, over all partitions.
type Lane struct {
	Action string `json:"action"` // its kind, such as "s3"
	Account
	State      string    `json:"state"`               // "live", "catching up", "destination down", "draining"
	Retries    uint64    `json:"retries"`             // failed tries since the process started
	LastError  string    `json:"lastError,omitempty"` // since the process started
	LastFailed time.Time `json:"lastFailed,omitzero"`
	DownSince  time.Time `json:"downSince,omitzero"`
}

// Applied says what Apply did.
type Applied struct {
	Name     string    `json:"ruleName"`
	Result   string    `json:"result"` // "created", "updated", "unchanged", "valid"
	Warnings []Problem `json:"warnings,omitempty"`
}

// Problem is a mistake with its place in the user's text.
type Problem struct {
	Message string `json:"message"`
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"`   // from 1; 0: not known
	Column  int    `json:"column,omitempty"` // from 1
	Detail  string `json:"detail,omitempty"` // message, source line, caret and hint, for a terminal
}

// Detailed is implemented by errors that know the place of a mistake; the API
// passes the text on.
type Detailed interface {
	error
	Detail() string
}

// Status is the state of the process.
type Status struct {
	Ready      bool              `json:"ready"`
	Reason     string            `json:"reason,omitempty"` // why not ready
	Build      telemetry.Build   `json:"build"`
	PID        int               `json:"pid"`
	Started    time.Time         `json:"started"`
	DataDir    string            `json:"dataDir"`
	Durability string            `json:"durability"`
	Limits     string            `json:"limits"`
	Roles      []string          `json:"roles"`     // this process runs
	Listeners  map[string]string `json:"listeners"` // name to host:port
	Partitions []Partition       `json:"partitions"`

	Connections int    `json:"connections"` // of devices, now
	Received    uint64 `json:"received"`    // events appended since the process started
	Rules       int    `json:"rules"`
	DeadLetters uint64 `json:"deadLetters"` // in the stream DEAD
}

// Partition is one stream of the log.
type Partition struct {
	Partition int    `json:"partition"`
	First     uint64 `json:"first"`     // oldest sequence kept
	Committed uint64 `json:"committed"` // newest
}

// StatusReader tells the state of the process.
type StatusReader interface {
	Status(ctx context.Context) (*Status, error)
}

// TailOptions say what to read.
type TailOptions struct {
	Filter string    // a topic filter; empty: everything
	Since  time.Time // from the first event that arrived then; zero: from now on
	Last   int       // the newest n that match, before going on; 0: none
	Follow bool      // go on with new events; else end at what is there
}

// Tailer reads the log.
type Tailer interface {
	// Tail calls fn for each event in order of arrival, over all partitions, and
	// gap where events were trimmed before they were read. It returns when ctx
	// ends, a function returns an error, or, without Follow, at the end.
	Tail(ctx context.Context, o TailOptions, fn func(*event.Event) error, gap func(partition int, from, to uint64) error) error
}

// Destinations are the web servers the http action may send to, once their
// owners have confirmed it.
type Destinations interface {
	List(ctx context.Context) ([]Destination, error)
	// Confirm enables the destination that was given token. Error: NotFound.
	Confirm(ctx context.Context, token string) (*Destination, error)
	// Delete removes a destination by its confirmation URL or ARN.
	Delete(ctx context.Context, name string) error
}

// Destination is a web server that was asked whether it wants results.
type Destination struct {
	ARN       string    `json:"arn"`
	URL       string    `json:"confirmationUrl"`
	Status    string    `json:"status"` // "IN_PROGRESS", "ENABLED", "DISABLED", "ERROR"
	Reason    string    `json:"statusReason,omitempty"`
	CreatedAt time.Time `json:"createdAt"`
}

// DeadLetters is the stream DEAD.
type DeadLetters interface {
	// List returns at most max letters behind sequence after, oldest first; rule
	// empty: of every rule.
	List(ctx context.Context, rule string, after uint64, max int) ([]DeadLetter, error)
	Get(ctx context.Context, seq uint64) (*DeadLetter, error)
	// Redrive hands the letters to their actions again. What is delivered leaves
	// DEAD; the count is that.
	Redrive(ctx context.Context, q RedriveRequest) (*Redriven, error)
}

// DeadLetter is a result that was given up.
type DeadLetter struct {
	Seq      uint64    `json:"seq"` // in the stream DEAD; its name here
	ID       string    `json:"id"`  // of the message
	Rule     string    `json:"ruleName"`
	Action   string    `json:"action"` // kind
	Topic    string    `json:"topic"`
	ClientID string    `json:"clientId,omitempty"`
	Time     time.Time `json:"time"` // when it was given up
	Reason   string    `json:"reason"`
	Payload  []byte    `json:"-"` // what was to be delivered; Get only
	Original []byte    `json:"-"` // the message; Get only
}

// Redriven says what Redrive did.
type Redriven struct {
	Delivered int      `json:"delivered"`
	Failed    int      `json:"failed"` // still in DEAD
	Errors    []string `json:"errors,omitempty"`
}

// ErrorBody is the answer to a request that failed.
type ErrorBody struct {
	Error ErrorInfo `json:"error"`
}

// ErrorInfo says what went wrong.
type ErrorInfo struct {
	Kind    string `json:"kind"` // of package errs
	Message string `json:"message"`
	Detail  string `json:"detail,omitempty"` // several lines, with source and caret
}

// Content is a payload in JSON: text where it is UTF-8 without control
// characters, base64 otherwise.
type Content struct {
	Payload       string `json:"payload"`
	PayloadBase64 string `json:"payloadBase64,omitempty"`
}

// TailLine is one line of a tail.
type TailLine struct {
	ID        string    `json:"id,omitempty"`
	Topic     string    `json:"topic,omitempty"`
	Received  time.Time `json:"received,omitzero"`
	ClientID  string    `json:"clientId,omitempty"`
	Principal string    `json:"principal,omitempty"`
	SourceIP  string    `json:"sourceIp,omitempty"`
	QoS       byte      `json:"qos"`
	Retain    bool      `json:"retain,omitempty"`
	Partition uint16    `json:"partition"`
	Seq       uint64    `json:"seq,omitempty"`
	Content
	Gap   *Gap       `json:"gap,omitempty"`   // instead of an event
	Error *ErrorInfo `json:"error,omitempty"` // instead of an event; the last line
}

// Gap names events that were trimmed before they were read.
type Gap struct {
	Partition int    `json:"partition"`
	From      uint64 `json:"from"`
	To        uint64 `json:"to"`
}

// Letter is a DeadLetter with its contents.
type Letter struct {
	DeadLetter
	Result  Content `json:"result"`
	Message Content `json:"message"`
}
