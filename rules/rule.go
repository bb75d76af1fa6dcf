package rules

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Limits of a rule document.
const (
	MaxName     = 128
	MaxActions  = 10
	MaxDocument = 256 << 10
)

// Rule is a rule document: AWS IoT's TopicRulePayload and the rule's name.
type Rule struct {
	Name        string   `json:"ruleName"`
	SQL         string   `json:"sql"`
	Description string   `json:"description,omitempty"`
	SQLVersion  string   `json:"awsIotSqlVersion,omitempty"` // empty: 2015-10-08
	Disabled    bool     `json:"ruleDisabled,omitempty"`
	Actions     []Action `json:"actions"`
	ErrorAction *Action  `json:"errorAction,omitempty"`
}

// Action is one entry of a rule's actions: an object with a single key, the
// kind.
type Action struct {
	Kind   string
	Params json.RawMessage // the kind's own object
}

// MarshalJSON writes {"<kind>": <params>}.
func (a Action) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]json.RawMessage{a.Kind: a.Params})
}

// UnmarshalJSON reads {"<kind>": <params>}.
func (a *Action) UnmarshalJSON(b []byte) error {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(b, &m); err != nil {
		return err
	}
	if len(m) != 1 {
		return fmt.Errorf("an action has one key, its kind; this one has %d", len(m))
	}
	for k, v := range m {
		a.Kind, a.Params = k, v
	}
	return nil
}

// Equal reports whether r and o are the same document.
func (r *Rule) Equal(o *Rule) bool {
	a, errA := canonical(r)
	b, errB := canonical(o)
	return errA == nil && errB == nil && bytes.Equal(a, b)
}

// canonical returns r as JSON with sorted keys, also inside the actions.
func canonical(r *Rule) ([]byte, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

// Stored is a rule as the store keeps it.
type Stored struct {
	Rule      *Rule     `json:"rule"`
	Version   int       `json:"version"` // 1 for a new rule, one more for each change
	CreatedAt time.Time `json:"createdAt"`
	UpdatedAt time.Time `json:"updatedAt"`

	// Start is, by partition, the position behind which this version counts: the
	// committed end when it was stored. End is set once the version is closed:
	// replaced, disabled or deleted.
	Start []uint64 `json:"start"`
	End   []uint64 `json:"end,omitempty"`

	Revision uint64 `json:"-"` // of the bucket entry that brought this version in; it names the version
}

// CheckName checks a rule's name: 1 to 128 of [A-Za-z0-9_].
func CheckName(s string) error {
	if s == "" {
		return errors.New("the rule has no name")
	}
	if len(s) > MaxName {
		return fmt.Errorf("the rule's name has %d characters, at most %d are allowed", len(s), MaxName)
	}
	for i := range len(s) {
		c := s[i]
		if !(c == '_' || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z') {
			return fmt.Errorf("the rule's name %q: only letters, digits and _ are allowed", s)
		}
	}
	return nil
}
