package localstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	"github.com/johannesboyne/gofakes3"
)

const (
	testKey    = "WEIRTESTKEY"
	testSecret = "0123456789abcdef0123456789abcdef"
)

// start runs a store over dir with a listener, and ends it with the test.
func start(t testing.TB, dir string, change func(*Options)) *Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Dir: dir, Listener: l, AccessKey: testKey, SecretKey: testSecret}
	if change != nil {
		change(&o)
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *Server) url() string { return "http://" + s.o.Listener.Addr().String() }

// sdk is a client over the listener, signing as any client does.
func sdk(t testing.TB, s *Server, key, secret string, change ...func(*awss3.Options)) *awss3.Client {
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return awss3.New(awss3.Options{
		Region: "us-east-1", BaseEndpoint: aws.String(s.url()), UsePathStyle: true, Retryer: aws.NopRetryer{},
		HTTPClient: &http.Client{Transport: tr},
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: key, SecretAccessKey: secret}, nil
		}),
	}, change...)
}

func put(t testing.TB, c *awss3.Client, bucket, key, body string) {
	t.Helper()
	if _, err := c.PutObject(t.Context(), &awss3.PutObjectInput{Bucket: &bucket, Key: &key, Body: strings.NewReader(body)}); err != nil {
		t.Fatalf("put %q: %v", key, err)
	}
}

func get(t testing.TB, c *awss3.Client, bucket, key string) string {
	t.Helper()
	out, err := c.GetObject(t.Context(), &awss3.GetObjectInput{Bucket: &bucket, Key: &key})
	if err != nil {
		t.Fatalf("get %q: %v", key, err)
	}
	defer out.Body.Close()
	b, err := io.ReadAll(out.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func list(t testing.TB, c *awss3.Client, in *awss3.ListObjectsV2Input) (keys, prefixes []string) {
	t.Helper()
	p := awss3.NewListObjectsV2Paginator(c, in)
	for p.HasMorePages() {
		page, err := p.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range page.Contents {
			keys = append(keys, *o.Key)
		}
		for _, o := range page.CommonPrefixes {
			prefixes = append(prefixes, *o.Prefix)
		}
	}
	return keys, prefixes
}

// Keys of every kind come back as they went in, and none leaves the folder.
func TestKeys(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "s3")
	s := start(t, dir, nil)
	c := sdk(t, s, testKey, testSecret)
	if err := s.CreateBucket("bucket"); err != nil {
		t.Fatal(err)
	}
	keys := []string{
		"a", "a/b", "a/b/c", "a/b/c/d", "x/y", "x", "plain.json", "site/north/2026-11-21/1.json",
		"..hidden", ".dot", "trail.", "Case", "case", "ü/ö", "a b", "50%", "%2E%2E", "a+b&c=d", "q?x#y", `back\slash`, "e/", "e//f", "//g",
		"con", "tab", strings.Repeat("long", 200), strings.Repeat("ü", 300) + "/x", "meta.json", "meta.json/inner",
	}
	for _, k := range keys {
		put(t, c, "bucket", k, "1:"+k)
	}
	for _, k := range keys {
		put(t, c, "bucket", k, "2:"+k) // over the first
	}
	for _, k := range keys {
		if got := get(t, c, "bucket", k); got != "2:"+k {
			t.Errorf("%q: %q", k, got)
		}
	}
	got, _ := list(t, c, &awss3.ListObjectsV2Input{Bucket: aws.String("bucket"), MaxKeys: aws.Int32(4)})
	want := slices.Clone(keys)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("listed %q\nwant   %q", got, want)
	}
	if entries, _ := os.ReadDir(filepath.Dir(dir)); len(entries) != 1 {
		t.Errorf("something lies beside the folder: %v", entries)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "bucket/site/north/2026-11-21/1.json")); err != nil || !bytes.HasPrefix(b, []byte("2:")) {
		t.Errorf("a plain key is not a plain file: %v", err)
	}
	for _, k := range keys {
		if _, err := c.DeleteObject(t.Context(), &awss3.DeleteObjectInput{Bucket: aws.String("bucket"), Key: &k}); err != nil {
			t.Errorf("delete %q: %v", k, err)
		}
	}
	if left, _ := list(t, c, &awss3.ListObjectsV2Input{Bucket: aws.String("bucket")}); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	if _, err := c.DeleteBucket(t.Context(), &awss3.DeleteBucketInput{Bucket: aws.String("bucket")}); err != nil {
		t.Error(err)
	}
}

func TestDotLevelsStayInside(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "s3")
	f, err := openFolder(dir, time.Now, false)
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	if err := f.CreateBucket("bucket"); err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{"../x", "../../x", "a/../../../x", "..", ".", "./x", "a/./b", "/etc/passwd", "a\x00b", "\xff\xfe", "%", "%-", "%+"} {
		if _, err := f.PutObject("bucket", k, nil, strings.NewReader(k), int64(len(k)), nil); err != nil {
			t.Errorf("%q: %v", k, err)
			continue
		}
		o, err := f.GetObject("bucket", k, nil)
		if err != nil {
			t.Errorf("%q: %v", k, err)
			continue
		}
		b, _ := io.ReadAll(o.Contents)
		o.Contents.Close()
		if string(b) != k {
			t.Errorf("%q: %q", k, b)
		}
	}
	for _, where := range []string{filepath.Dir(dir), dir} {
		entries, _ := os.ReadDir(where)
		for _, e := range entries {
			if !slices.Contains([]string{"s3", "bucket", ".tmp", ".meta"}, e.Name()) {
				t.Errorf("%s lies in %s", e.Name(), where)
			}
		}
	}
}

func TestListing(t *testing.T) {
	s := start(t, t.TempDir(), nil)
	c := sdk(t, s, testKey, testSecret)
	_ = s.CreateBucket("bucket")
	for _, k := range []string{"a/1", "a/2", "a/b/3", "ab", "b", "c/1", "c/2"} {
		put(t, c, "bucket", k, k)
	}
	for _, x := range []struct{ prefix, delimiter, keys, prefixes string }{
		{"", "/", "ab b", "a/ c/"},
		{"a", "/", "ab", "a/"},
		{"a/", "/", "a/1 a/2", "a/b/"},
		{"a/", "", "a/1 a/2 a/b/3", ""},
		{"c/2", "", "c/2", ""},
		{"nothing", "/", "", ""},
		{"", "b", "a/1 a/2 c/1 c/2", "a/b ab b"},
	} {
		for _, max := range []int32{1, 2, 1000} {
			in := &awss3.ListObjectsV2Input{Bucket: aws.String("bucket"), MaxKeys: &max, Prefix: &x.prefix}
			if x.delimiter != "" {
				in.Delimiter = &x.delimiter
			}
			keys, prefixes := list(t, c, in)
			if strings.Join(keys, " ") != x.keys || strings.Join(prefixes, " ") != x.prefixes {
				t.Errorf("prefix %q, delimiter %q, %d a page: %q, %q", x.prefix, x.delimiter, max, keys, prefixes)
			}
		}
	}
}

func TestMetadata(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir, nil)
	c := sdk(t, s, testKey, testSecret)
	_ = s.CreateBucket("bucket")
	in := &awss3.PutObjectInput{Bucket: aws.String("bucket"), Key: aws.String("a"), Body: strings.NewReader("x"),
		ContentType: aws.String("application/json"), Metadata: map[string]string{"rule": "r"}}
	if _, err := c.PutObject(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	put(t, c, "bucket", "a/b", "y") // a moves out of the way, with its metadata
	h, err := c.HeadObject(t.Context(), &awss3.HeadObjectInput{Bucket: in.Bucket, Key: in.Key})
	if err != nil || *h.ContentType != "application/json" || h.Metadata["rule"] != "r" || *h.ContentLength != 1 {
		t.Errorf("%+v, %v", h, err)
	}
	put(t, c, "bucket", "a", "z") // and loses it when it is written without
	h, err = c.HeadObject(t.Context(), &awss3.HeadObjectInput{Bucket: in.Bucket, Key: in.Key})
	if err != nil || *h.ContentType != defaultType || len(h.Metadata) > 0 || *h.ETag != `"fbade9e36a3f36d3d676c1b808451dd7"` {
		t.Errorf("%+v, %v", h, err)
	}
}

// A process that ends between the steps that make room for a folder leaves the
// object to be found.
func TestCrashWhileMakingRoom(t *testing.T) {
	dir := t.TempDir()
	f, err := openFolder(dir, time.Now, false)
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	_ = f.CreateBucket("bucket")
	if _, err := f.PutObject("bucket", "a", nil, strings.NewReader("1"), 1, nil); err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check := func(want ...string) {
		t.Helper()
		l, err := f.ListBucket("bucket", nil, zeroPage)
		must(err)
		var keys []string
		for _, c := range l.Contents {
			keys = append(keys, c.Key)
		}
		o, err := f.GetObject("bucket", "a", nil)
		must(err)
		b, _ := io.ReadAll(o.Contents)
		o.Contents.Close()
		if !slices.Equal(keys, want) || string(b) != "1" {
			t.Errorf("keys %q, a is %q", keys, b)
		}
	}
	must(f.root.Mkdir("bucket/a%", 0o700))
	check("a")
	must(f.root.Rename("bucket/a", "bucket/a%/%"))
	check("a")
	_, err = f.PutObject("bucket", "a/b", nil, strings.NewReader("2"), 1, nil)
	must(err)
	check("a", "a/b")
}

func TestWhoMayNotEnter(t *testing.T) {
	s := start(t, t.TempDir(), nil)
	_ = s.CreateBucket("bucket")
	list := func(c *awss3.Client) error {
		_, err := c.ListBuckets(t.Context(), &awss3.ListBucketsInput{})
		return err
	}
	if err := list(sdk(t, s, testKey, testSecret)); err != nil {
		t.Fatalf("the owner: %v", err)
	}
	for name, c := range map[string]struct {
		client *awss3.Client
		code   string
	}{
		"other key":    {sdk(t, s, "OTHER", testSecret), "InvalidAccessKeyId"},
		"other secret": {sdk(t, s, testKey, "another"), "SignatureDoesNotMatch"},
	} {
		var api smithy.APIError
		if err := list(c.client); !errors.As(err, &api) || api.ErrorCode() != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	do := func(method, path string, change func(*http.Request)) *http.Response {
		req, _ := http.NewRequest(method, s.url()+path, nil)
		if change != nil {
			change(req)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		for h := range resp.Header {
			if strings.HasPrefix(h, "Access-Control-") {
				t.Errorf("%s %s: header %s", method, path, h)
			}
		}
		return resp
	}
	if r := do("GET", "/bucket", nil); r.StatusCode != 403 {
		t.Errorf("unsigned: %s", r.Status)
	}
	if r := do("GET", "/", func(r *http.Request) { r.Host = "evil.example" }); r.StatusCode != 403 {
		t.Errorf("foreign host: %s", r.Status)
	}
	if r := do("GET", "/", func(r *http.Request) { r.Host = Host }); r.StatusCode != 403 {
		t.Errorf("inner host from outside: %s", r.Status)
	}
	if r := do("OPTIONS", "/bucket/x", func(r *http.Request) {
		r.Header.Set("Origin", "https://evil.example")
		r.Header.Set("Access-Control-Request-Method", "PUT")
	}); r.StatusCode != 403 {
		t.Errorf("pre-flight: %s", r.Status)
	}
	if _, err := Open(Options{Dir: t.TempDir(), Listener: notLoopback{}, AccessKey: testKey, SecretKey: testSecret}); err == nil {
		t.Error("listens on all addresses")
	}
	if _, err := Open(Options{Dir: t.TempDir(), Listener: s.o.Listener}); err == nil {
		t.Error("listens without a key")
	}
}

// seen notes what the server answers; it dials the store whatever the name is.
type seen struct {
	s       *Server
	headers []http.Header
}

func (c *seen) Do(r *http.Request) (*http.Response, error) {
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", c.s.o.Listener.Addr().String())
	}}
	resp, err := tr.RoundTrip(r)
	if err == nil {
		c.headers = append(c.headers, resp.Header)
	}
	return resp, err
}

// The right key is not enough: a browser that was lured here by a name, or that
// has a page read what comes back.
func TestSignedRequestsAreGuardedToo(t *testing.T) {
	s := start(t, t.TempDir(), nil)
	_ = s.CreateBucket("bucket")
	c := &seen{s: s}
	client := sdk(t, s, testKey, testSecret, func(o *awss3.Options) { o.HTTPClient = c })
	put(t, client, "bucket", "k", "v")
	get(t, client, "bucket", "k")
	list(t, client, &awss3.ListObjectsV2Input{Bucket: aws.String("bucket")})
	for _, h := range c.headers {
		for name := range h {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("header %s", name)
			}
		}
	}
	_, port, _ := net.SplitHostPort(s.o.Listener.Addr().String())
	for _, host := range []string{"evil.example:" + port, Host, "127.0.0.1:1", "127.0.0.1.evil.example:" + port} {
		client := sdk(t, s, testKey, testSecret, func(o *awss3.Options) {
			o.HTTPClient, o.BaseEndpoint = c, aws.String("http://"+host)
		})
		var api smithy.APIError
		_, err := client.ListBuckets(t.Context(), &awss3.ListBucketsInput{})
		if !errors.As(err, &api) || api.ErrorCode() != "AccessDenied" || !strings.Contains(api.ErrorMessage(), "name") {
			t.Errorf("%s: %v", host, err)
		}
	}
}

type notLoopback struct{ net.Listener }

func (notLoopback) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4zero, Port: 80} }

func TestSignedBodyIsTheBody(t *testing.T) {
	s := start(t, t.TempDir(), nil)
	_ = s.CreateBucket("bucket")
	c := sdk(t, s, testKey, testSecret, func(o *awss3.Options) { o.HTTPClient = changeBody{} })
	_, err := c.PutObject(t.Context(), &awss3.PutObjectInput{Bucket: aws.String("bucket"), Key: aws.String("k"), Body: strings.NewReader("good")})
	if err == nil {
		t.Error("a changed body was stored")
	}
	ok, _ := list(t, sdk(t, s, testKey, testSecret), &awss3.ListObjectsV2Input{Bucket: aws.String("bucket")})
	if len(ok) > 0 {
		t.Errorf("stored: %q", ok)
	}
}

type changeBody struct{}

func (changeBody) Do(r *http.Request) (*http.Response, error) {
	r.Body = io.NopCloser(strings.NewReader("evil"))
	return http.DefaultClient.Do(r)
}

// The SDKs' newer default: checksums that trail a body in chunks.
func TestChunkedUpload(t *testing.T) {
	s := start(t, t.TempDir(), nil)
	_ = s.CreateBucket("bucket")
	c := sdk(t, s, testKey, testSecret)
	body := strings.Repeat("chunk ", 50_000)
	if _, err := c.PutObject(t.Context(), &awss3.PutObjectInput{Bucket: aws.String("bucket"), Key: aws.String("k"),
		Body: strings.NewReader(body), ChecksumAlgorithm: types.ChecksumAlgorithmCrc32}); err != nil {
		t.Fatal(err)
	}
	if get(t, c, "bucket", "k") != body {
		t.Error("the object is not what was sent")
	}
	for name, raw := range map[string]string{
		"unsigned with trailer": "5\r\nhello\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n",
		"signed":                "2;chunk-signature=ab\r\nhe\r\n3;chunk-signature=cd\r\nllo\r\n0;chunk-signature=ef\r\n\r\n",
	} {
		r := &http.Request{Header: http.Header{}, Body: io.NopCloser(strings.NewReader(raw))}
		r.Header.Set("X-Amz-Content-Sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER")
		r.Header.Set("Content-Encoding", "gzip, aws-chunked")
		r.Header.Set("X-Amz-Decoded-Content-Length", "5")
		if err := plainBody(r); err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r.Body)
		if err != nil || string(b) != "hello" || r.Header.Get("Content-Encoding") != "gzip" || r.ContentLength != 5 {
			t.Errorf("%s: %q, %v, %v", name, b, err, r.Header)
		}
	}
}

func FuzzChunks(f *testing.F) {
	f.Add("5\r\nhello\r\n0\r\n\r\n", int64(5))
	f.Add("2;chunk-signature=ab\r\nhe\r\n3\r\nllo\r\n0\r\n", int64(5))
	f.Add("ffffffffffffffff\r\n", int64(1))
	f.Add("-1\r\n", int64(1))
	f.Fuzz(func(t *testing.T, in string, total int64) {
		r := &http.Request{Header: http.Header{}, Body: io.NopCloser(strings.NewReader(in))}
		r.Header.Set("Content-Encoding", "aws-chunked")
		r.Header.Set("X-Amz-Decoded-Content-Length", fmt.Sprint(total))
		if plainBody(r) != nil {
			return
		}
		b, err := io.ReadAll(r.Body)
		if err == nil && int64(len(b)) != total || int64(len(b)) > total {
			t.Fatalf("%d bytes of %d, %v", len(b), total, err)
		}
	})
}

func FuzzKeys(f *testing.F) {
	for _, k := range []string{"a", "a/b", "../x", "", "/", "a//b", "%", "%-", "x%", "A", "\x00", strings.Repeat("é", 200)} {
		f.Add(k, true)
		f.Add(k, false)
	}
	f.Fuzz(func(t *testing.T, key string, upper bool) {
		names := keyPath(key, upper)
		var back strings.Builder
		for i, n := range names {
			if n == "" || n == "." || n == ".." || len(n) > maxName+3 || strings.ContainsAny(n, "/\\\x00") || n == markOwn || strings.HasSuffix(n, "%") {
				t.Fatalf("%q: name %q", key, n)
			}
			text, more, ok := levelOf(n)
			if !ok || more && i == len(names)-1 {
				t.Fatalf("%q: name %q cannot be read back", key, n)
			}
			back.WriteString(text)
			if !more && i < len(names)-1 {
				back.WriteByte('/')
			}
		}
		if back.String() != key {
			t.Fatalf("%q came back as %q", key, back.String())
		}
	})
}

func TestAutoBucket(t *testing.T) {
	s := start(t, t.TempDir(), func(o *Options) { o.AutoBucket = true })
	c := sdk(t, s, testKey, testSecret)
	done := make(chan error)
	for i := range 8 {
		go func() {
			_, err := c.PutObject(context.Background(), &awss3.PutObjectInput{Bucket: aws.String("new-bucket"), Key: aws.String(fmt.Sprint(i)), Body: strings.NewReader("x")})
			done <- err
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func BenchmarkPut(b *testing.B) {
	f, err := openFolder(b.TempDir(), time.Now, false)
	if err != nil {
		b.Fatal(err)
	}
	defer f.close()
	_ = f.CreateBucket("bucket")
	body := strings.Repeat("x", 200)
	i := 0
	for b.Loop() {
		i++
		if _, err := f.PutObject("bucket", fmt.Sprintf("a/b/%d.json", i), nil, strings.NewReader(body), 200, nil); err != nil {
			b.Fatal(err)
		}
	}
}

var zeroPage gofakes3.ListBucketPage
