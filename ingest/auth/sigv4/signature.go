package sigv4

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	algorithm  = "AWS4-HMAC-SHA256"
	terminator = "aws4_request"
	timeForm   = "20060102T150405Z"

	maxPresigned = 24 * time.Hour
	maxSigned    = 100 // signed headers
	maxQuery     = 100 // parameters
)

// The query parameters of a presigned request.
const (
	qAlgorithm     = "X-Amz-Algorithm"
	qCredential    = "X-Amz-Credential"
	qDate          = "X-Amz-Date"
	qExpires       = "X-Amz-Expires"
	qSignedHeaders = "X-Amz-SignedHeaders"
	qSignature     = "X-Amz-Signature"
	qToken         = "X-Amz-Security-Token"
)

// signature is what a request says of its own signature.
type signature struct {
	keyID   string
	day     string // yyyymmdd, of the scope
	region  string
	service string
	headers []string // lower case, ascending
	value   string   // 64 hexadecimal digits
	token   string   // session token; "" without
	at      time.Time
	expires time.Duration // presigned only; 0: not said

	presigned bool
	query     []parameter // all of the request, decoded
}

type parameter struct{ name, value string }

// Signed reports whether r carries a signature of this kind, good or bad. A
// request with none is somebody else's to judge.
func Signed(r *http.Request) bool {
	if strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-") {
		return true
	}
	return strings.Contains(r.URL.RawQuery, qAlgorithm+"=") || strings.Contains(r.URL.RawQuery, qSignature+"=")
}

// parse reads the signature of r, from its Authorization header or its query.
func parse(r *http.Request) (*signature, error) {
	query, wrong := parseQuery(r.URL.RawQuery)
	if wrong != "" {
		return nil, refuse(IncompleteSignature, wrong)
	}
	header := r.Header.Values("Authorization")
	inQuery := false
	for _, p := range query {
		inQuery = inQuery || p.name == qAlgorithm || p.name == qSignature || p.name == qCredential
	}
	var s *signature
	var err error
	switch {
	case len(header) > 0 && inQuery:
		return nil, refuse(InvalidSignature, "The request has a signature in its query and an Authorization header.")
	case inQuery:
		s, err = fromQuery(query)
	case len(header) == 0:
		return nil, refuse(MissingAuthenticationToken, "Missing Authentication Token")
	case len(header) > 1:
		return nil, refuse(IncompleteSignature, "The request has more than one Authorization header.")
	default:
		s, err = fromHeader(header[0], r.Header)
	}
	if err != nil {
		return nil, err
	}
	s.query = query
	return s, nil
}

func fromHeader(text string, h http.Header) (*signature, error) {
	rest, ok := strings.CutPrefix(text, algorithm+" ")
	if !ok {
		return nil, refuse(IncompleteSignature, "The Authorization header must begin with "+algorithm+".")
	}
	s := &signature{}
	var credential, signed string
	for part := range strings.SplitSeq(rest, ",") {
		name, value, ok := strings.Cut(strings.Trim(part, " \t"), "=")
		var at *string
		switch name {
		case "Credential":
			at = &credential
		case "SignedHeaders":
			at = &signed
		case "Signature":
			at = &s.value
		}
		if !ok || at == nil || value == "" || *at != "" {
			return nil, refuse(IncompleteSignature, "The Authorization header must have Credential, SignedHeaders and Signature, each once.")
		}
		*at = value
	}
	when := h.Values("X-Amz-Date")
	layouts := []string{timeForm}
	if len(when) == 0 {
		when, layouts = h.Values("Date"), []string{http.TimeFormat, time.RFC1123Z, timeForm}
	}
	if len(when) != 1 {
		return nil, refuse(IncompleteSignature, "The request must have one X-Amz-Date header or one Date header.")
	}
	tokens := h.Values("X-Amz-Security-Token")
	if len(tokens) > 1 {
		return nil, refuse(IncompleteSignature, "The request has more than one X-Amz-Security-Token header.")
	}
	if len(tokens) == 1 {
		s.token = strings.Trim(tokens[0], " \t")
	}
	if err := s.fill(credential, signed, when[0], layouts...); err != nil {
		return nil, err
	}
	// Without X-Amz-Date, the Date header is what keeps an old request from
	// being sent again. X-Amz- headers must be signed anyway.
	if h.Get("X-Amz-Date") == "" && !slices.Contains(s.headers, "date") {
		return nil, refuse(InvalidSignature, "The Date header must be signed.")
	}
	return s, nil
}

func fromQuery(query []parameter) (*signature, error) {
	value := map[string]string{}
	for _, p := range query {
		value[p.name] = p.value // parseQuery has refused repetition
	}
	if value[qAlgorithm] != algorithm {
		return nil, refuse(IncompleteSignature, "X-Amz-Algorithm must be "+algorithm+".")
	}
	s := &signature{presigned: true, value: value[qSignature], token: value[qToken]}
	if text, ok := value[qExpires]; ok {
		n, err := strconv.ParseUint(text, 10, 32)
		d := time.Duration(n) * time.Second
		if err != nil || n == 0 || d > maxPresigned {
			return nil, refuse(InvalidSignature, fmt.Sprintf("X-Amz-Expires must be a number of seconds from 1 to %d.", maxPresigned/time.Second))
		}
		s.expires = d
	}
	return s, s.fill(value[qCredential], value[qSignedHeaders], value[qDate], timeForm)
}

// fill reads the parts both forms have.
func (s *signature) fill(credential, signed, when string, layouts ...string) error {
	scope := strings.Split(credential, "/")
	if len(scope) != 5 || scope[4] != terminator || slices.Contains(scope, "") {
		return refuse(IncompleteSignature, "Credential must be <access key id>/<yyyymmdd>/<region>/<service>/"+terminator+".")
	}
	s.keyID, s.day, s.region, s.service = scope[0], scope[1], scope[2], scope[3]
	if len(s.keyID) > 128 {
		return refuse(UnrecognizedClient, "The security token included in the request is invalid.")
	}
	s.headers = strings.Split(signed, ";")
	for i, h := range s.headers {
		if h == "" || h != strings.ToLower(h) || i > 0 && h <= s.headers[i-1] || i >= maxSigned {
			return refuse(IncompleteSignature, "SignedHeaders must be names in lower case, in alphabetical order, each once, with ';' between.")
		}
	}
	if !slices.Contains(s.headers, "host") {
		return refuse(InvalidSignature, "The Host header must be signed.")
	}
	if len(s.value) != 64 || strings.Trim(s.value, "0123456789abcdef") != "" {
		return refuse(IncompleteSignature, "Signature must be 64 hexadecimal digits in lower case.")
	}
	for _, l := range layouts {
		if t, err := time.Parse(l, when); err == nil {
			s.at = t.UTC()
			if s.at.Format("20060102") != s.day {
				return refuse(InvalidSignature, "The date in Credential is not that of the request.")
			}
			return nil
		}
	}
	return refuse(IncompleteSignature, "The date of the request must have the form "+timeForm+".")
}

// parseQuery splits and decodes a query as handlers do (url.ParseQuery), in its
// order. A name that comes twice is refused, for signing sorts by value and so
// does not tell the order: tagKeys is the one list AWS's APIs have in a query,
// and has no order.
func parseQuery(raw string) (query []parameter, wrong string) {
	if raw == "" {
		return nil, ""
	}
	if strings.Count(raw, "&") >= maxQuery {
		return nil, fmt.Sprintf("The query has more than %d parameters.", maxQuery)
	}
	seen := map[string]bool{}
	for part := range strings.SplitSeq(raw, "&") {
		if part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		n, ok1 := unescape(name)
		v, ok2 := unescape(value)
		if !ok1 || !ok2 || strings.Contains(part, ";") {
			return nil, "The query is not URL encoded."
		}
		if seen[n] && n != "tagKeys" {
			return nil, "The query has a parameter twice."
		}
		seen[n] = true
		query = append(query, parameter{n, v})
	}
	return query, ""
}
