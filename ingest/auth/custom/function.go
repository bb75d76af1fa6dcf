package custom

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"
	"unicode/utf8"
)

// Invoker calls functions. function is a name or an ARN. Whatever the error, the
// answer does not count.
type Invoker interface {
	Invoke(ctx context.Context, function string, payload []byte) ([]byte, error)
}

// The limits of a function. Source: "Creating and managing custom authorizers".
const (
	timeLimit    = 5 * time.Second
	maxAnswer    = 128 << 10 // bytes; ten documents and what comes with them are far below
	maxDocuments = 10
	maxDocument  = 2048 // characters, without the white space between tokens
	minSeconds   = 300
	maxSeconds   = 86_400
)

// event is what a function gets.
type event struct {
	Token     string   `json:"token,omitempty"`
	Verified  bool     `json:"signatureVerified"`
	Protocols []string `json:"protocols"`
	Data      struct {
		TLS  *tlsData  `json:"tls,omitempty"`
		HTTP *httpData `json:"http,omitempty"`
		MQTT *mqttData `json:"mqtt,omitempty"`
	} `json:"protocolData"`
	Connection struct {
		ID string `json:"id"`
	} `json:"connectionMetadata"`
}

type tlsData struct {
	ServerName string `json:"serverName"`
}

type httpData struct {
	Headers map[string]string `json:"headers"`
	Query   string            `json:"queryString,omitempty"` // with its '?'
}

type mqttData struct {
	Username string `json:"username,omitempty"`
	Password []byte `json:"password,omitempty"` // Base64 in JSON
	ClientID string `json:"clientId,omitempty"`
}

// Answer is what a function said.
type Answer struct {
	PrincipalID     string
	Policies        []string // documents, without white space between tokens
	DisconnectAfter time.Duration
	RefreshAfter    time.Duration
}

var principalID = regexp.MustCompile(`^[a-zA-Z0-9]{1,128}$`)

var errNotAuthenticated = errors.New("the function does not authenticate the client")

// readAnswer holds what a function said against what it must say. Members it
// does not know are left alone: functions add their own.
func readAnswer(b []byte) (*Answer, error) {
	if len(b) > maxAnswer {
		return nil, fmt.Errorf("the answer is over %d bytes", maxAnswer)
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(b, &m); err != nil || m == nil {
		return nil, errors.New("the answer is not a JSON object")
	}
	switch string(bytes.TrimSpace(m["isAuthenticated"])) {
	case "true":
	case "false":
		return nil, errNotAuthenticated
	default:
		return nil, errors.New("isAuthenticated must be true or false")
	}
	a := &Answer{}
	if err := json.Unmarshal(m["principalId"], &a.PrincipalID); err != nil || !principalID.MatchString(a.PrincipalID) {
		return nil, errors.New("principalId must be 1 to 128 letters and digits")
	}
	var err error
	if a.DisconnectAfter, err = seconds(m, "disconnectAfterInSeconds"); err != nil {
		return nil, err
	}
	if a.RefreshAfter, err = seconds(m, "refreshAfterInSeconds"); err != nil {
		return nil, err
	}
	var documents []json.RawMessage
	if err := json.Unmarshal(m["policyDocuments"], &documents); err != nil {
		return nil, errors.New("policyDocuments must be a list")
	}
	if len(documents) > maxDocuments {
		return nil, fmt.Errorf("over %d policy documents", maxDocuments)
	}
	for i, d := range documents {
		text := []byte(d)
		var s string
		if json.Unmarshal(d, &s) == nil { // a document as text
			text = []byte(s)
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, text); err != nil {
			return nil, fmt.Errorf("policy document %d is not JSON", i+1)
		}
		if utf8.RuneCount(compact.Bytes()) > maxDocument {
			return nil, fmt.Errorf("policy document %d is over %d characters", i+1, maxDocument)
		}
		a.Policies = append(a.Policies, compact.String())
	}
	return a, nil
}

func seconds(m map[string]json.RawMessage, name string) (time.Duration, error) {
	n, err := strconv.Atoi(string(bytes.TrimSpace(m[name])))
	if err != nil || n < minSeconds || n > maxSeconds {
		return 0, fmt.Errorf("%s must be a whole number from %d to %d", name, minSeconds, maxSeconds)
	}
	return time.Duration(n) * time.Second, nil
}
