package sigv4

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// unescape decodes %XX and '+'.
func unescape(s string) (string, bool) {
	if !strings.ContainsAny(s, "%+") {
		return s, true
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '+':
			b = append(b, ' ')
		case '%':
			if i+2 >= len(s) {
				return "", false
			}
			n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
			if err != nil {
				return "", false
			}
			b = append(b, byte(n))
			i += 2
		default:
			b = append(b, s[i])
		}
	}
	return string(b), true
}

const digits = "0123456789ABCDEF"

// appendEscaped appends s with every byte encoded but the unreserved ones of RFC
// 3986, and '/' where slash is true.
func appendEscaped(b []byte, s string, slash bool) []byte {
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.', c == '_', c == '~', c == '/' && slash:
			b = append(b, c)
		default:
			b = append(b, '%', digits[c>>4], digits[c&15])
		}
	}
	return b
}

// rawPath returns the path of r as it came.
func rawPath(r *http.Request) string {
	p := r.URL.EscapedPath()
	if p == "" {
		return "/"
	}
	return p
}

// canonical returns the canonical request. withToken tells whether the session
// token in the query was there when the query was signed.
func (s *signature) canonical(r *http.Request, payload string, withToken bool) []byte {
	b := make([]byte, 0, 512)
	b = append(b, r.Method...)
	b = append(b, '\n')
	b = appendEscaped(b, rawPath(r), true) // encoded a second time
	b = append(b, '\n')
	b = s.appendQuery(b, withToken)
	b = append(b, '\n')
	for _, name := range s.headers {
		b = append(append(b, name...), ':')
		for i, v := range headerValues(r, name) {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendTrimmed(b, v)
		}
		b = append(b, '\n')
	}
	b = append(b, '\n')
	b = append(b, strings.Join(s.headers, ";")...)
	b = append(b, '\n')
	return append(b, payload...)
}

func (s *signature) appendQuery(b []byte, withToken bool) []byte {
	type pair struct{ name, value string }
	pairs := make([]pair, 0, len(s.query))
	for _, p := range s.query {
		if s.presigned && (p.name == qSignature || p.name == qToken && !withToken) {
			continue
		}
		pairs = append(pairs, pair{string(appendEscaped(nil, p.name, false)), string(appendEscaped(nil, p.value, false))})
	}
	slices.SortFunc(pairs, func(x, y pair) int {
		if c := strings.Compare(x.name, y.name); c != 0 {
			return c
		}
		return strings.Compare(x.value, y.value)
	})
	for i, p := range pairs {
		if i > 0 {
			b = append(b, '&')
		}
		b = append(append(append(b, p.name...), '='), p.value...)
	}
	return b
}

// headerValues returns the values of the header name as they came. net/http
// takes some out of the header map.
func headerValues(r *http.Request, name string) []string {
	switch name {
	case "host":
		return []string{r.Host}
	case "content-length":
		if v := r.Header.Values("Content-Length"); len(v) > 0 || r.ContentLength < 0 {
			return v
		}
		return []string{strconv.FormatInt(r.ContentLength, 10)}
	case "transfer-encoding":
		return r.TransferEncoding
	}
	return r.Header.Values(name)
}

// appendTrimmed appends v without spaces at its ends, and with one for several.
func appendTrimmed(b []byte, v string) []byte {
	v = strings.Trim(v, " \t")
	for i := 0; i < len(v); i++ {
		if v[i] == ' ' && i > 0 && v[i-1] == ' ' {
			continue
		}
		b = append(b, v[i])
	}
	return b
}

// sign returns what the signature of a canonical request must be.
func (s *signature) sign(secret string, canonical []byte) string {
	key := mac([]byte("AWS4"+secret), s.day)
	for _, part := range []string{s.region, s.service, terminator} {
		key = mac(key, part)
	}
	sum := sha256.Sum256(canonical)
	return hex.EncodeToString(mac(key, strings.Join([]string{
		algorithm, s.at.Format(timeForm), s.day + "/" + s.region + "/" + s.service + "/" + terminator, hex.EncodeToString(sum[:]),
	}, "\n")))
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}
