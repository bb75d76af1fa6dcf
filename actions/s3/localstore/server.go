package localstore

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/johannesboyne/gofakes3"

	"github.com/weir-iot/weir/internal/errs"
)

// Host is the name the store goes by inside the process.
const Host = "s3.weir.internal"

// Endpoint is the store's address for connections made with Dial.
const Endpoint = "http://" + Host

// Options configure a Server.
type Options struct {
	Dir string // the folder of the buckets; made where it is missing

	// Listener takes connections besides Dial's; it must be on loopback. Requests
	// over it are signed with AccessKey and SecretKey. nil: none. Run closes it.
	Listener             net.Listener
	AccessKey, SecretKey string

	AutoBucket bool // make a bucket at its first use, as Amazon S3 does not
	Logger     *slog.Logger
	Now        func() time.Time // nil: time.Now
}

// Server is an S3 API over a folder. Its zero value is of no use: see Open.
type Server struct {
	o      Options
	folder *folder
	pipe   *pipeListener
	http   *http.Server
}

// Open checks the options and opens the folder. It starts nothing: see Run.
func Open(o Options) (*Server, error) {
	const op = "localstore.Open"
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Listener != nil {
		a, ok := o.Listener.Addr().(*net.TCPAddr)
		if !ok || !a.IP.IsLoopback() {
			return nil, errs.Errorf(op, errs.Invalid, "listens on %s: only loopback is allowed", o.Listener.Addr())
		}
		if o.AccessKey == "" || len(o.SecretKey) < 16 {
			return nil, errs.Errorf(op, errs.Invalid, "a listener needs an access key and a secret key of at least 16 characters")
		}
	}
	f, err := openFolder(o.Dir, o.Now, o.AutoBucket)
	if err != nil {
		return nil, errs.E(op, errs.Unavailable, err)
	}
	s := &Server{o: o, folder: f, pipe: newPipeListener()}
	fake := gofakes3.New(f,
		gofakes3.WithAutoBucket(o.AutoBucket),
		gofakes3.WithTimeSkewLimit(0), // checked with the signature
		gofakes3.WithLogger(logger{o.Logger}),
	)
	s.http = &http.Server{
		Handler:           s.guard(fake.Server()),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			_, inside := c.(*pipeConn)
			return context.WithValue(ctx, insideKey{}, inside)
		},
	}
	return s, nil
}

type insideKey struct{}

// CreateBucket makes a bucket where it is missing. Errors: errs.Invalid for a
// name S3 does not allow.
func (s *Server) CreateBucket(name string) error {
	const op = "localstore.CreateBucket"
	if err := gofakes3.ValidateBucketName(name); err != nil {
		return errs.Errorf(op, errs.Invalid, "bucket name %q: %w", name, err)
	}
	if ok, err := s.folder.BucketExists(name); ok || err != nil {
		return err
	}
	if err := s.folder.CreateBucket(name); err != nil {
		return errs.E(op, errs.Unavailable, err)
	}
	return nil
}

// Dial opens a connection that does not leave the process. Requests over it are
// believed: nobody else can make one. It waits until Run accepts it.
func (s *Server) Dial(ctx context.Context) (net.Conn, error) { return s.pipe.dial(ctx) }

// Run serves until ctx ends; every request is answered and every goroutine it
// started has ended on return. It also closes the folder.
func (s *Server) Run(ctx context.Context) error {
	const op = "localstore.Run"
	listeners := []net.Listener{s.pipe}
	if s.o.Listener != nil {
		listeners = append(listeners, s.o.Listener)
	}
	done := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { done <- s.http.Serve(l) }()
	}
	var first error
	ended := 0
	select {
	case <-ctx.Done():
	case first = <-done:
		ended++
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if s.http.Shutdown(stop) != nil {
		_ = s.http.Close()
	}
	for ; ended < len(listeners); ended++ {
		<-done
	}
	err := s.folder.close()
	if first != nil && !errors.Is(first, http.ErrServerClosed) {
		return errs.E(op, errs.Unavailable, first)
	}
	if err != nil {
		return errs.E(op, errs.Unavailable, err)
	}
	return nil
}

// guard stands before the S3 API. It refuses names a browser could be lured to
// (DNS rebinding), strangers and pre-flights, and undoes the transfer encoding
// of the newer SDKs, which gofakes3 would store as if it were the object.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rw := &responseWriter{ResponseWriter: w}
		w = rw
		defer rw.strip()
		inside, _ := r.Context().Value(insideKey{}).(bool)
		if !s.ownHost(r.Host, inside) {
			refuse(w, http.StatusForbidden, "AccessDenied", "this store does not go by the name "+strconv.Quote(r.Host))
			return
		}
		if r.Method == http.MethodOptions {
			refuse(w, http.StatusForbidden, "AccessForbidden", "this store is not for browsers")
			return
		}
		if !inside {
			if code, msg := s.verify(r); code != "" {
				refuse(w, http.StatusForbidden, code, msg)
				return
			}
		}
		if err := plainBody(r); err != nil {
			refuse(w, http.StatusBadRequest, "InvalidRequest", err.Error())
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Server) ownHost(host string, inside bool) bool {
	if inside {
		return host == Host
	}
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		return false
	}
	_, own, _ := net.SplitHostPort(s.o.Listener.Addr().String())
	return port == own && (name == "localhost" || name == "127.0.0.1" || name == "::1")
}

// maxSkew is how far a request's time may be off, as at Amazon S3.
const maxSkew = 15 * time.Minute

// verify checks the Signature Version 4 of a request's header: it signs what the
// client says it signed and compares. code "" means it is good.
// Source: AWS Signature Version 4, "Authenticating requests: using the
// Authorization header".
func (s *Server) verify(r *http.Request) (code, msg string) {
	rest, ok := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ")
	if !ok {
		return "AccessDenied", "the request is not signed; the store takes Signature Version 4 in the Authorization header"
	}
	part := map[string]string{}
	for p := range strings.SplitSeq(rest, ",") {
		k, v, _ := strings.Cut(strings.TrimSpace(p), "=")
		part[k] = v
	}
	scope := strings.Split(part["Credential"], "/")
	if len(scope) != 5 || scope[3] != "s3" || scope[4] != "aws4_request" {
		return "AuthorizationHeaderMalformed", "the credential scope is not for s3"
	}
	if subtle.ConstantTimeCompare([]byte(scope[0]), []byte(s.o.AccessKey)) != 1 {
		return "InvalidAccessKeyId", "the access key is not this store's"
	}
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil || at.Format("20060102") != scope[1] {
		return "AuthorizationHeaderMalformed", "X-Amz-Date is missing or not the scope's"
	}
	if skew := s.o.Now().Sub(at); skew > maxSkew || skew < -maxSkew {
		return "RequestTimeTooSkewed", "the request's time is too far off"
	}
	signed := strings.Split(part["SignedHeaders"], ";")
	for _, need := range []string{"host", "x-amz-date", "x-amz-content-sha256"} {
		if !slices.Contains(signed, need) {
			return "AccessDenied", need + " is not signed"
		}
	}
	again := (&http.Request{Method: r.Method, Host: r.Host, Header: http.Header{}, URL: &url.URL{
		Scheme: "http", Host: r.Host, Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery,
	}}).WithContext(r.Context())
	for _, name := range signed {
		switch name {
		case "host":
		case "content-length":
			again.ContentLength = r.ContentLength
		default:
			again.Header[http.CanonicalHeaderKey(name)] = r.Header.Values(name)
		}
	}
	hash := r.Header.Get("X-Amz-Content-Sha256")
	key := aws.Credentials{AccessKeyID: s.o.AccessKey, SecretAccessKey: s.o.SecretKey}
	err = v4.NewSigner().SignHTTP(r.Context(), key, again, hash, scope[3], scope[2], at, func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	if err != nil {
		return "AccessDenied", "the signature cannot be checked"
	}
	_, want, _ := strings.Cut(again.Header.Get("Authorization"), "Signature=")
	if subtle.ConstantTimeCompare([]byte(part["Signature"]), []byte(want)) != 1 {
		return "SignatureDoesNotMatch", "the signature does not match"
	}
	if sum, err := hex.DecodeString(hash); err == nil && len(sum) == sha256.Size {
		r.Body = &checkedBody{ReadCloser: r.Body, want: sum, sum: sha256.New()}
	}
	return "", ""
}

// checkedBody fails at the end of a body that is not the signed one.
type checkedBody struct {
	io.ReadCloser
	want []byte
	sum  interface {
		io.Writer
		Sum([]byte) []byte
	}
}

func (b *checkedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	_, _ = b.sum.Write(p[:n])
	if err == io.EOF && subtle.ConstantTimeCompare(b.sum.Sum(nil), b.want) != 1 {
		return n, gofakes3.ErrorMessage(gofakes3.ErrBadDigest, "the body is not the signed one")
	}
	return n, err
}

// responseWriter takes gofakes3's CORS headers away.
type responseWriter struct {
	http.ResponseWriter
	wrote bool
}

func (w *responseWriter) strip() {
	if w.wrote {
		return
	}
	w.wrote = true
	for name := range w.Header() {
		if strings.HasPrefix(name, "Access-Control-") {
			w.Header().Del(name)
		}
	}
	w.Header().Set("X-Content-Type-Options", "nosniff")
}

func (w *responseWriter) WriteHeader(status int) {
	w.strip()
	w.ResponseWriter.WriteHeader(status)
}

func (w *responseWriter) Write(p []byte) (int, error) {
	w.strip()
	return w.ResponseWriter.Write(p)
}

func refuse(w http.ResponseWriter, status int, code, msg string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	var text strings.Builder
	for _, r := range msg {
		switch r {
		case '<', '>', '&':
			fmt.Fprintf(&text, "&#%d;", r)
		default:
			text.WriteRune(r)
		}
	}
	fmt.Fprintf(w, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>%s</Code><Message>%s</Message></Error>\n", code, text.String())
}

type logger struct{ l *slog.Logger }

func (g logger) Print(level gofakes3.LogLevel, v ...any) {
	if level == gofakes3.LogErr {
		g.l.Warn("local S3", "error", strings.TrimSpace(fmt.Sprintln(v...)))
	}
}
