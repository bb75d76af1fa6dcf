package custom

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/weir-iot/weir/ingest/auth"
)

// The parameters of AWS's.
const (
	nameKey      = "x-amz-customauthorizer-name"
	signatureKey = "x-amz-customauthorizer-signature"
)

// The limits of what a client may bring. Source: AWS IoT API, TestInvokeAuthorizer.
const (
	maxToken     = 6144
	maxSignature = 2560
	maxQuery     = 4096
	maxHeader    = 8192
	maxHeaders   = 100
)

type parameter struct{ name, value string }

// parse splits and decodes a query. '+' is itself: a token or a signature that
// is not URL encoded, as some send it, has it in its Base64.
func parse(query string) ([]parameter, error) {
	var out []parameter
	for part := range strings.SplitSeq(query, "&") {
		if part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		n, ok1 := unescape(name)
		v, ok2 := unescape(value)
		if !ok1 || !ok2 {
			return nil, fmt.Errorf("not URL encoded")
		}
		if out = append(out, parameter{n, v}); len(out) > maxHeaders {
			return nil, fmt.Errorf("over %d parameters", maxHeaders)
		}
	}
	return out, nil
}

func unescape(s string) (string, bool) {
	if !strings.Contains(s, "%") {
		return s, true
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b = append(b, s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", false
		}
		hi, lo := digit(s[i+1]), digit(s[i+2])
		if hi < 0 || lo < 0 {
			return "", false
		}
		b = append(b, byte(hi<<4|lo))
		i += 2
	}
	return string(b), true
}

func digit(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// splitUser splits a user name into what stands before '?' and the query behind,
// without what the SDKs say of themselves there: clean is the user name so.
func splitUser(user string) (query []parameter, clean string, err error) {
	name, raw, ok := strings.Cut(user, "?")
	if !ok {
		return nil, user, nil
	}
	var kept []string
	for part := range strings.SplitSeq(raw, "&") {
		key, _, _ := strings.Cut(part, "=")
		if part != "" && !metric(key) {
			kept = append(kept, part)
		}
	}
	if clean = name; len(kept) > 0 {
		clean += "?" + strings.Join(kept, "&")
	}
	query, err = parse(strings.Join(kept, "&"))
	return query, clean, err
}

// metric reports whether the parameter key is one the SDKs describe themselves
// with.
func metric(key string) bool {
	switch key {
	case "SDK", "Version", "Platform", "Metadata", "AFRSDK", "AFRLibVersion":
		return true
	}
	return false
}

// credentials is all a client has brought, in the places it may have.
type credentials struct {
	http  *auth.Request
	query []parameter // of the request
	user  []parameter // in the user name
	clean string      // user name without metrics
}

func read(c *auth.Connection) (*credentials, error) {
	k := &credentials{http: c.HTTP}
	var err error
	if k.user, k.clean, err = splitUser(c.Username); err != nil {
		return nil, fmt.Errorf("the user name: %w", err)
	}
	if c.HTTP == nil {
		return k, nil
	}
	if len(c.HTTP.URL.RawQuery) > maxQuery {
		return nil, fmt.Errorf("the query is over %d bytes", maxQuery)
	}
	if k.query, err = parse(c.HTTP.URL.RawQuery); err != nil {
		return nil, fmt.Errorf("the query: %w", err)
	}
	if len(c.HTTP.Header) > maxHeaders {
		return nil, fmt.Errorf("over %d headers", maxHeaders)
	}
	for _, values := range c.HTTP.Header {
		n := 0
		for _, v := range values {
			n += len(v)
		}
		if n > maxHeader {
			return nil, fmt.Errorf("a header is over %d bytes", maxHeader)
		}
	}
	return k, nil
}

// value returns what the client has brought under name: in a header, the query
// or the user name. Two values that differ are refused, for it would be unclear
// which one counts.
func (k *credentials) value(name string) (value string, err error) {
	var all []string
	if k.http != nil {
		all = append(all, k.http.Header[http.CanonicalHeaderKey(name)]...)
	}
	for _, list := range [][]parameter{k.query, k.user} {
		for _, p := range list {
			if strings.EqualFold(p.name, name) {
				all = append(all, p.value)
			}
		}
	}
	for _, v := range all {
		if v != all[0] {
			return "", fmt.Errorf("%s is there twice, with different values", name)
		}
	}
	if len(all) == 0 {
		return "", nil
	}
	return all[0], nil
}

// headers returns the headers a function gets: names in lower case, without what
// is about the transfer of the request.
func headers(r *http.Request) map[string]string {
	out := map[string]string{"host": r.Host}
	for name, values := range r.Header {
		lower := strings.ToLower(name)
		if slices.Contains(transfer, lower) {
			continue
		}
		out[lower] = strings.Join(values, ", ")
	}
	return out
}

var transfer = []string{"connection", "content-length", "transfer-encoding", "te", "trailer", "upgrade", "keep-alive", "expect"}
