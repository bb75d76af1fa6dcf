// Package http is the rule action http: it posts each result to a web server
// that has confirmed that it wants them.
//
// It is the last station of a message: the lane hands it a result, a reply with
// a 2xx status is the confirmation. Destinations keeps the handshake by which
// web servers confirm; the dialler refuses addresses that no webhook may reach,
// whatever name led to them.
package http

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	nethttp "net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"golang.org/x/net/http/httpguts"

	"github.com/weir-iot/weir/actions"
	"github.com/weir-iot/weir/actions/awsenv"
	"github.com/weir-iot/weir/actions/param"
)

// Headers Weir adds to a request. A receiver that drops ids it knows sees each
// result once, whatever was repeated.
const (
	HeaderMessageID = "X-Weir-Message-Id" // traceid() of the message; of a batch, the ids in the array's order, with commas
	HeaderRule      = "X-Weir-Rule"       // the rule's name
)

// Kind is the action http.
// Source: AWS IoT API, HttpAction; AWS IoT developer guide, "HTTP", "Working with
// HTTP topic rule destinations" and "Batching HTTP action messages".
var Kind = actions.Kind{
	Name:    "http",
	Summary: "Posts each result to a web server that has confirmed that it wants them.",
	Fields:  fields,
	New:     newAction,
}

var fields = []actions.Field{
	{Name: "url", Type: actions.String, Required: true, Template: true,
		Help: "Where to POST, https only, at most 2,000 bytes. Values of templates are encoded for their place: a path keeps its slashes. With templates, confirmationUrl is required."},
	{Name: "confirmationUrl", Type: actions.String, Template: true, Default: "url",
		Help: "Where the request to confirm goes; url must begin with it. With templates, a destination for each value must exist and be enabled beforehand."},
	{Name: "headers", Type: actions.List, Help: "Up to 100 headers. `content-type` overrides the default, application/json for JSON and application/octet-stream for all else. Of a batch, the last message's count.", Fields: []actions.Field{
		{Name: "key", Type: actions.String, Required: true, Help: "The header's name, 1 to 256 bytes. Those that frame the request (host, content-length, connection, …) and x-weir-… are refused."},
		{Name: "value", Type: actions.String, Required: true, Template: true, Help: "The header's value. Control characters are refused."},
	}},
	{Name: "auth", Type: actions.Object, Help: "How to sign requests.", Fields: []actions.Field{
		{Name: "sigv4", Type: actions.Object, Help: "Signature Version 4, with the credentials of the AWS environment.", Fields: []actions.Field{
			{Name: "signingRegion", Type: actions.String, Required: true, Help: "The region to sign for."},
			{Name: "serviceName", Type: actions.String, Required: true, Help: "The service to sign for."},
			param.Role,
		}},
	}},
	{Name: "enableBatching", Type: actions.Bool, Default: "false", Help: "Whether to send several results in one request, as a JSON array. A result that is not JSON or larger than maxBatchSizeBytes goes alone."},
	{Name: "batchConfig", Type: actions.Object, Help: "The bounds of a batch; the first that is reached ends it.", Fields: []actions.Field{
		{Name: "maxBatchOpenMs", Type: actions.Int, Default: "20", Help: "How long a result waits for others, 5 to 200 ms."},
		{Name: "maxBatchSize", Type: actions.Int, Default: "10", Help: "Results in a batch, 2 to 10."},
		{Name: "maxBatchSizeBytes", Type: actions.Int, Default: "5120", Help: "Bytes of a batch, 100 to 131,072."},
		{Name: "batchAcrossTopics", Type: actions.Bool, Default: "false", Help: "Whether results of different topics share a batch."},
	}},
}

const (
	maxHeaders   = 100
	maxKeyBytes  = 256
	maxHeaderSum = 16 << 10 // bytes of all values of a request
	maxInFlight  = 32
	maxTries     = 3 // Source: AWS IoT developer guide, "HTTP action retry logic"
)

type action struct {
	env      actions.Env
	target   *target
	confirm  *target // nil: target
	headers  []header
	typed    bool // headers set the content type
	sigv4    *sigv4
	batching *batching
	client   *client
	now      func() time.Time
}

type header struct {
	key   string
	value param.Text
}

type sigv4 struct{ region, service string }

// batching bounds the batches.
type batching struct {
	size, bytes int
	acrossTopic bool
}

func newAction(ctx context.Context, env actions.Env, raw json.RawMessage) (actions.Action, actions.Spec, error) {
	p := struct {
		URL             string `json:"url"`
		ConfirmationURL string `json:"confirmationUrl"`
		Headers         []struct{ Key, Value string }
		Auth            struct {
			SigV4 *struct{ SigningRegion, ServiceName, RoleARN string }
		}
		EnableBatching bool `json:"enableBatching"`
		BatchConfig    *struct {
			MaxBatchOpenMs    *int64 `json:"maxBatchOpenMs"`
			MaxBatchSize      *int64 `json:"maxBatchSize"`
			MaxBatchSizeBytes *int64 `json:"maxBatchSizeBytes"`
			BatchAcrossTopics bool   `json:"batchAcrossTopics"`
		} `json:"batchConfig"`
	}{}
	spec := actions.Spec{MaxInFlight: maxInFlight, BatchMax: 1, MaxTries: maxTries, Timeout: requestTime + time.Second}
	if err := actions.Decode(raw, fields, &p); err != nil {
		return nil, spec, err
	}
	a := &action{env: env, now: time.Now}
	var err error
	if a.target, err = compileURL(env, p.URL, "url"); err != nil {
		return nil, spec, err
	}
	to, constant := a.target.literal()
	if p.ConfirmationURL == "" && !constant {
		return nil, spec, param.Wrong(nil, `the key "confirmationUrl" is missing`, "a url with substitution templates needs one")
	}
	challenge := to
	if p.ConfirmationURL != "" {
		if a.confirm, err = compileURL(env, p.ConfirmationURL, "confirmationUrl"); err != nil {
			return nil, spec, err
		}
		base, ok := a.confirm.literal()
		challenge = base
		if ok && constant {
			u, _ := url.Parse(to)
			b, _ := url.Parse(base)
			if !below(u, b) {
				return nil, spec, param.Wrong([]string{"url"}, "the url does not begin with the confirmationUrl", "")
			}
		}
	}
	if err := a.compileHeaders(p.Headers); err != nil {
		return nil, spec, err
	}
	if s := p.Auth.SigV4; s != nil {
		if err := param.CheckRole(s.RoleARN, "auth", "sigv4", "roleArn"); err != nil {
			return nil, spec, err
		}
		if s.SigningRegion == "" || s.ServiceName == "" {
			return nil, spec, param.Wrong([]string{"auth", "sigv4"}, "signingRegion and serviceName must not be empty", "")
		}
		if env.AWS == nil {
			return nil, spec, param.Wrong([]string{"auth", "sigv4"}, "AWS credentials are not available here", "")
		}
		a.sigv4 = &sigv4{s.SigningRegion, s.ServiceName}
	}
	if c := p.BatchConfig; c != nil && !p.EnableBatching {
		return nil, spec, param.Wrong([]string{"batchConfig"}, "batching is not enabled", `set "enableBatching" to true`)
	}
	if p.EnableBatching {
		open, size, bytes, across := int64(20), int64(10), int64(5120), false
		if c := p.BatchConfig; c != nil {
			across = c.BatchAcrossTopics
			for _, v := range []struct {
				name     string
				given    *int64
				into     *int64
				min, max int64
			}{
				{"maxBatchOpenMs", c.MaxBatchOpenMs, &open, 5, 200},
				{"maxBatchSize", c.MaxBatchSize, &size, 2, 10},
				{"maxBatchSizeBytes", c.MaxBatchSizeBytes, &bytes, 100, 131072},
			} {
				if v.given == nil {
					continue
				}
				if *v.given < v.min || *v.given > v.max {
					return nil, spec, param.Wrong([]string{"batchConfig", v.name}, fmt.Sprintf("%d is not between %d and %d", *v.given, v.min, v.max), "")
				}
				*v.into = *v.given
			}
		}
		a.batching = &batching{size: int(size), bytes: int(bytes), acrossTopic: across}
		spec.BatchMax, spec.BatchBytes = int(size), int(bytes)
		if !across {
			// One batch of the lane holds several of ours, one for each topic.
			spec.BatchMax, spec.BatchBytes = spec.BatchMax*lanes, spec.BatchBytes*lanes
		}
		spec.BatchLinger = time.Duration(open) * time.Millisecond
		spec.MaxInFlight = maxInFlight / lanes
		spec.Timeout = 30 * time.Second
	}
	a.client = newClient(Policy{env.AllowPrivate, env.AllowNetworks}, maxInFlight)
	spec.Resource = p.URL
	if constant {
		u, _ := url.Parse(to)
		spec.Resource = public(u)
	} else {
		spec.Resource, _, _ = strings.Cut(p.URL, "?")
	}
	if challenge != "" && env.Destinations != nil {
		if err := env.Destinations.Confirm(ctx, challenge); err != nil {
			return nil, spec, fmt.Errorf("destination: %w", err)
		}
	}
	return a, spec, nil
}

// lanes is how many topics share one Deliver, and how many requests it sends at
// a time.
const lanes = 8

// framing are the headers that belong to the connection, not to the user.
var framing = map[string]bool{
	"Host": true, "Content-Length": true, "Transfer-Encoding": true, "Connection": true, "Keep-Alive": true,
	"Upgrade": true, "Te": true, "Trailer": true, "Expect": true, "Proxy-Connection": true, "Proxy-Authorization": true,
	"Http2-Settings": true,
}

func (a *action) compileHeaders(list []struct{ Key, Value string }) error {
	if len(list) > maxHeaders {
		return param.Wrong([]string{"headers"}, fmt.Sprintf("%d headers, at most %d are allowed", len(list), maxHeaders), "")
	}
	seen := map[string]bool{}
	for i, h := range list {
		at := func(k string) []string { return []string{"headers", strconv.Itoa(i), k} }
		key := nethttp.CanonicalHeaderKey(h.Key)
		switch {
		case h.Key == "" || len(h.Key) > maxKeyBytes || !httpguts.ValidHeaderFieldName(h.Key):
			return param.Wrong(at("key"), fmt.Sprintf("%q is not a header's name", h.Key), "")
		case framing[key] || strings.HasPrefix(key, "X-Weir-") || strings.HasPrefix(key, "X-Amz-Rules-Engine-"):
			return param.Wrong(at("key"), fmt.Sprintf("the header %q is not yours to set", h.Key), "")
		case seen[key]:
			return param.Wrong(at("key"), fmt.Sprintf("the header %q comes twice", h.Key), "")
		}
		seen[key] = true
		v, err := param.Compile(a.env, h.Value, at("value")...)
		if err != nil {
			return err
		}
		if text, ok := v.Literal(); ok {
			if err := checkValue(text); err != nil {
				return param.Wrong(at("value"), err.Error(), "")
			}
		}
		a.typed = a.typed || key == "Content-Type"
		a.headers = append(a.headers, header{key, v})
	}
	return nil
}

func checkValue(s string) error {
	if !httpguts.ValidHeaderFieldValue(s) {
		return errors.New("a control character cannot stand in a header")
	}
	return nil
}

// request is what goes out together.
type request struct {
	url     *url.URL
	of      []int // results, by their place in Deliver's batch
	body    []byte
	isArray bool
}

func (a *action) Deliver(ctx context.Context, batch []*actions.Result) error {
	failed := make([]error, len(batch))
	var requests []*request
	open := map[string]*request{} // by topic and URL
	for i, r := range batch {
		u, err := a.where(ctx, r)
		if err != nil {
			failed[i] = err
			continue
		}
		b := a.batching
		if b == nil || !json.Valid(r.Payload) {
			requests = append(requests, &request{url: u, of: []int{i}, body: r.Payload})
			continue
		}
		key := u.String()
		if !b.acrossTopic {
			key += " " + string(r.Event.Topic)
		}
		q := open[key]
		if q == nil || len(q.of) == b.size || len(q.body)+len(r.Payload)+2 > b.bytes {
			q = &request{url: u, body: []byte{'['}, isArray: true}
			requests = append(requests, q)
			open[key] = q
		}
		if len(q.of) > 0 {
			q.body = append(q.body, ',')
		}
		q.body = append(q.body, r.Payload...)
		q.of = append(q.of, i)
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, lanes)
	for _, q := range requests {
		if q.isArray {
			q.body = append(q.body, ']')
		}
		send := func() {
			err := a.send(ctx, q, batch)
			for _, i := range q.of {
				failed[i] = err
			}
		}
		if len(requests) == 1 {
			send()
			break
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			send()
		})
	}
	wg.Wait()
	return actions.Failures(failed)
}

// where returns the URL for a result, once its destination may be used.
func (a *action) where(ctx context.Context, r *actions.Result) (*url.URL, error) {
	u, err := a.target.url(ctx, r.Event)
	if err != nil {
		return nil, err
	}
	fixed := true
	if a.confirm != nil {
		base, err := a.confirm.url(ctx, r.Event)
		if err != nil {
			return nil, err
		}
		if !below(u, base) {
			return nil, actions.Permanent(fmt.Errorf("%s does not begin with the confirmationUrl %s", public(u), public(base)))
		}
		_, fixed = a.confirm.literal()
	}
	if a.env.Destinations == nil {
		return nil, actions.Permanent(errors.New("there are no HTTP destinations here"))
	}
	ok, err := a.env.Destinations.Enabled(ctx, u.String())
	if err != nil {
		return nil, actions.Unreachable(fmt.Errorf("destination of %s: %w", public(u), err))
	}
	if !ok {
		err := fmt.Errorf("no enabled destination for %s: it has not been confirmed, or it was disabled", public(u))
		if fixed {
			return nil, actions.Unreachable(err) // the results wait for its owner
		}
		// A message that names its own destination must not hold up the others.
		return nil, actions.Permanent(err)
	}
	return u, nil
}

func (a *action) send(ctx context.Context, q *request, batch []*actions.Result) error {
	first, last := batch[q.of[0]], batch[q.of[len(q.of)-1]]
	req, err := nethttp.NewRequestWithContext(ctx, nethttp.MethodPost, q.url.String(), bytes.NewReader(q.body))
	if err != nil {
		return actions.Permanent(errors.New("not a URL"))
	}
	sum := 0
	for _, h := range a.headers {
		v, err := h.value.Execute(ctx, last.Event)
		if err != nil {
			return err
		}
		if err := checkValue(v); err != nil {
			return actions.Permanent(fmt.Errorf("headers: %s: %w", h.key, err))
		}
		if sum += len(v); sum > maxHeaderSum {
			return actions.Permanent(fmt.Errorf("headers: more than %d bytes", maxHeaderSum))
		}
		req.Header[h.key] = []string{v}
	}
	if q.isArray {
		req.Header["Content-Type"] = []string{"application/json"}
	} else if !a.typed {
		kind := "application/octet-stream"
		if json.Valid(q.body) {
			kind = "application/json"
		}
		req.Header["Content-Type"] = []string{kind}
	}
	ids := first.ID.String()
	for _, i := range q.of[1:] {
		ids += "," + batch[i].ID.String()
	}
	req.Header[HeaderMessageID] = []string{ids}
	req.Header[HeaderRule] = []string{first.Rule}
	if _, ok := req.Header["User-Agent"]; !ok {
		req.Header["User-Agent"] = []string{"Weir"}
	}
	// An idle connection that the server closes under the request may be replaced
	// at once: the id makes the repeat harmless. The empty list is not sent.
	if _, ok := req.Header["Idempotency-Key"]; !ok {
		req.Header["Idempotency-Key"] = []string{}
	}
	if s := a.sigv4; s != nil {
		if err := a.sign(ctx, req, q.body); err != nil {
			return err
		}
	}
	r, err := a.client.do(ctx, req)
	if err != nil {
		err = fmt.Errorf("POST %s: %w", public(q.url), err)
		if errors.Is(err, errBlocked) {
			return actions.Permanent(err)
		}
		return actions.Unreachable(err)
	}
	return a.judge(q, r)
}

// judge turns a reply into an outcome.
// Source: AWS IoT developer guide, "HTTP action retry logic". Weir differs in one
// point: a server that closes the connection after its answer is asked again.
func (a *action) judge(q *request, r *reply) error {
	if r.status >= 200 && r.status < 300 {
		return nil
	}
	err := fmt.Errorf("POST %s: status %d%s", public(q.url), r.status, excerpt(r.body))
	again := r.status == nethttp.StatusTooManyRequests || r.status >= 500 && r.status < 600
	switch {
	case r.status >= 300 && r.status < 400:
		return actions.Permanent(fmt.Errorf("%w (redirects are not followed)", err))
	case again && r.large:
		return actions.Permanent(fmt.Errorf("%w (no retry: the reply is longer than %d bytes)", err, maxReply))
	case !again:
		return actions.Permanent(err)
	}
	if d, ok := awsenv.RetryAfter(r.header.Get("Retry-After"), a.now()); ok {
		return actions.RetryAfter(err, d)
	}
	return err
}

// excerpt shows the beginning of a reply, safe for a log line.
func excerpt(body []byte) string {
	const n = 200
	s := strings.TrimSpace(string(body[:min(len(body), n)]))
	if s == "" {
		return ""
	}
	return fmt.Sprintf(": %q", strings.ToValidUTF8(s, "."))
}

func (a *action) sign(ctx context.Context, req *nethttp.Request, body []byte) error {
	cfg, err := a.env.AWS(ctx)
	if err != nil {
		return actions.Unreachable(err)
	}
	if cfg.Credentials == nil {
		return actions.Unreachable(errors.New("no AWS credentials"))
	}
	key, err := cfg.Credentials.Retrieve(ctx)
	if err != nil {
		return actions.Unreachable(err)
	}
	sum := sha256.Sum256(body)
	hash := hex.EncodeToString(sum[:])
	req.Header["X-Amz-Content-Sha256"] = []string{hash}
	// Not part of what is sent, so not part of what is signed.
	idempotent := req.Header["Idempotency-Key"]
	delete(req.Header, "Idempotency-Key")
	err = v4.NewSigner().SignHTTP(ctx, aws.Credentials{
		AccessKeyID: key.AccessKeyID, SecretAccessKey: key.SecretAccessKey, SessionToken: key.SessionToken,
	}, req, hash, a.sigv4.service, a.sigv4.region, a.now())
	req.Header["Idempotency-Key"] = idempotent
	if err != nil {
		return actions.Permanent(fmt.Errorf("sigv4: %w", err))
	}
	return nil
}

func (a *action) Close(context.Context) error {
	a.client.close()
	return nil
}
