package sigv4

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"
)

// The services AWS's clients of IoT sign for.
const (
	DeviceGateway = "iotdevicegateway" // MQTT over WebSocket, HTTPS publish
	Data          = "iotdata"          // publish, shadows, retained messages
	Control       = "iot"
	Jobs          = "iot-jobs-data"
	Lambda        = "lambda"
)

// skew is how far the clocks of signer and verifier may be apart, and how long a
// signature without an expiry of its own can be used.
const skew = 5 * time.Minute

// sessionLife is how long a connection may last that was opened with a
// signature. Source: "Connection duration limits".
const sessionLife = 24 * time.Hour

// Key is an access key.
type Key struct {
	Secret   string
	Policies []string            // policy documents; none: it may do nothing
	Expires  time.Time           // zero: never
	Context  map[string][]string // further keys the policies may ask for, in lower case
}

// LogValue keeps a key's secret out of every log.
func (Key) LogValue() slog.Value { return slog.StringValue("access key") }

// String keeps it out of every %v.
func (Key) String() string { return "access key" }

// GoString is String for %#v.
func (Key) GoString() string { return "access key" }

// Keys finds access keys. Key is called for every request, and answers from
// memory; ok is false where there is none of that id, it is switched off, or
// token is not its session token ("" of a long-term key).
type Keys interface {
	Key(ctx context.Context, id, token string) (k Key, ok bool)
}

// KeysFunc is a function as Keys.
type KeysFunc func(ctx context.Context, id, token string) (Key, bool)

// Key implements Keys.
func (f KeysFunc) Key(ctx context.Context, id, token string) (Key, bool) { return f(ctx, id, token) }

// Caller is who signed a request.
type Caller struct {
	AccessKeyID string
	Policies    []string            // policy documents of the key
	Context     map[string][]string // of the key
	Service     string              // the request was signed for
	Region      string
	Presigned   bool
	// Expires is when a connection opened with the request must end at the
	// latest: after 24 hours, or with a temporary key.
	Expires time.Time

	secret, token string // of the key
}

// LogValue keeps the secret out of every log.
func (c *Caller) LogValue() slog.Value { return slog.StringValue(c.AccessKeyID) }

// String keeps it out of every %v.
func (c *Caller) String() string { return c.AccessKeyID }

// GoString is String for %#v.
func (c *Caller) GoString() string { return c.AccessKeyID }

// Options configure a Verifier.
type Options struct {
	Keys     Keys
	Region   string           // signatures must be for it
	Services []string         // and for one of these
	Now      func() time.Time // nil: time.Now
}

// Verifier judges signed requests. It is safe for concurrent use.
type Verifier struct{ o Options }

// New returns a Verifier.
func New(o Options) *Verifier {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Verifier{o}
}

// For returns a Verifier that takes signatures for the given services only.
func (v *Verifier) For(services ...string) *Verifier {
	o := v.o
	o.Services = services
	return &Verifier{o}
}

// Verify returns who signed r, whose whole body is body. r must be as it was
// received. Errors: errs.Unauthorized with an *Error, whose text the caller may
// read.
func (v *Verifier) Verify(r *http.Request, body []byte) (*Caller, error) {
	s, err := parse(r)
	if err != nil {
		return nil, err
	}
	return v.verify(s, r, body)
}

// Check does what Verify can do before the body has been read: it refuses most
// strangers without their being able to send one.
func (v *Verifier) Check(r *http.Request) error {
	s, err := parse(r)
	if err != nil {
		return err
	}
	_, err = v.admit(s, r)
	return err
}

// admit judges all but the signature's value.
func (v *Verifier) admit(s *signature, r *http.Request) (*Key, error) {
	key, ok := v.o.Keys.Key(r.Context(), s.keyID, s.token)
	now := v.o.Now().UTC()
	if !ok || key.Secret == "" || !key.Expires.IsZero() && !now.Before(key.Expires) {
		return nil, refuse(UnrecognizedClient, "The security token included in the request is invalid.")
	}
	if s.region != v.o.Region {
		return nil, refuse(InvalidSignature, fmt.Sprintf("Credential should be scoped to a valid region, not %q.", s.region))
	}
	if !slices.Contains(v.o.Services, s.service) {
		return nil, refuse(InvalidSignature, fmt.Sprintf("Credential should be scoped to correct service: %q.", strings.Join(v.o.Services, `", "`)))
	}
	at := s.at.Format(timeForm)
	if early := now.Add(skew); s.at.After(early) {
		return nil, refuse(InvalidSignature, fmt.Sprintf("Signature not yet current: %s is still later than %s (%s + 5 min.)", at, early.Format(timeForm), now.Format(timeForm)))
	}
	if s.presigned && s.expires > 0 {
		if end := s.at.Add(s.expires); now.After(end) {
			return nil, refuse(InvalidSignature, fmt.Sprintf("Signature expired: %s is now later than %s", now.Format(timeForm), end.Format(timeForm)))
		}
	} else if oldest := now.Add(-skew); s.at.Before(oldest) {
		return nil, refuse(InvalidSignature, fmt.Sprintf("Signature expired: %s is now earlier than %s (%s - 5 min.)", at, oldest.Format(timeForm), now.Format(timeForm)))
	}
	return &key, s.checkHeaders(r)
}

// meaning reports whether a header can change what a request asks for: those of
// AWS's names, but for the one that traces a request and that no client signs.
func meaning(header string) bool {
	return strings.HasPrefix(header, "x-amz-") || strings.HasPrefix(header, "x-amzn-") && header != "x-amzn-trace-id"
}

// checkHeaders refuses headers that mean something and are not signed, and
// signed ones that are not there.
func (s *signature) checkHeaders(r *http.Request) error {
	for name, values := range r.Header {
		lower := strings.ToLower(name)
		if !meaning(lower) || slices.Contains(s.headers, lower) {
			continue
		}
		// Some add the session token after signing; it is held against the key.
		if lower == "x-amz-security-token" && !s.presigned {
			continue
		}
		// What says the hash of the body adds nothing to the hash itself.
		if lower == "x-amz-content-sha256" && len(values) == 1 {
			continue
		}
		return refuse(InvalidSignature, fmt.Sprintf("The header %s must be signed.", lower))
	}
	for _, name := range s.headers {
		if len(headerValues(r, name)) == 0 {
			return refuse(InvalidSignature, "A header in SignedHeaders is not in the request.")
		}
	}
	return nil
}

// payload returns the hash of the body. What the request itself says of it must
// be true; that the body be left unsigned is for Amazon S3 only.
func payload(s *signature, r *http.Request, body []byte) (string, error) {
	sum := sha256.Sum256(body)
	is := hex.EncodeToString(sum[:])
	said := r.Header.Values("X-Amz-Content-Sha256")
	if s.presigned {
		for _, p := range s.query {
			if strings.EqualFold(p.name, "X-Amz-Content-Sha256") {
				said = append(said[:len(said):len(said)], p.value)
			}
		}
	}
	for _, text := range said {
		if strings.HasPrefix(text, "UNSIGNED-PAYLOAD") || strings.HasPrefix(text, "STREAMING-") {
			return "", refuse(InvalidSignature, "The body of the request must be signed.")
		}
		if text != is {
			return "", refuse(InvalidSignature, "The body of the request is not the one X-Amz-Content-Sha256 was made of.")
		}
	}
	return is, nil
}

func (v *Verifier) verify(s *signature, r *http.Request, body []byte) (*Caller, error) {
	key, err := v.admit(s, r)
	if err != nil {
		return nil, err
	}
	hash, err := payload(s, r, body)
	if err != nil {
		return nil, err
	}
	good := equal(s.value, s.sign(key.Secret, s.canonical(r, hash, true)))
	if !good && s.presigned && s.carriesToken() {
		// For MQTT over WebSocket the token is added to the URL after signing.
		good = equal(s.value, s.sign(key.Secret, s.canonical(r, hash, false)))
	}
	if !good {
		return nil, refuse(InvalidSignature, "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details.")
	}
	c := &Caller{
		AccessKeyID: s.keyID, Policies: key.Policies, Context: key.Context, Service: s.service, Region: s.region, Presigned: s.presigned,
		Expires: v.o.Now().Add(sessionLife), secret: key.Secret, token: s.token,
	}
	if !key.Expires.IsZero() && key.Expires.Before(c.Expires) {
		c.Expires = key.Expires
	}
	return c, nil
}

func (s *signature) carriesToken() bool {
	return slices.ContainsFunc(s.query, func(p parameter) bool { return p.name == qToken })
}

func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
