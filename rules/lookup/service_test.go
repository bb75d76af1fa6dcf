package lookup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/test/npm"
)

// lambdaServer speaks Lambda's Invoke. What a function does is in its name.
func lambdaServer(t testing.TB) string {
	throttled := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		in, _ := io.ReadAll(r.Body)
		name, ok := strings.CutPrefix(r.URL.Path, "/2015-03-31/functions/")
		name, ok2 := strings.CutSuffix(name, "/invocations")
		if !ok || !ok2 || r.Method != http.MethodPost || r.Header.Get("X-Amz-Invocation-Type") != "RequestResponse" ||
			!strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ") {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		switch name {
		case "arn:aws:lambda:us-east-1:123456789012:function:echo":
			fmt.Fprintf(w, `{"got":%s}`, in)
		case "null":
			fmt.Fprint(w, "null")
		case "fails":
			w.Header().Set("X-Amz-Function-Error", "Unhandled")
			fmt.Fprint(w, `{"errorType":"ValueError","errorMessage":"no\nsuch unit","trace":[]}`)
		case "fails badly":
			w.Header().Set("X-Amz-Function-Error", "Unhandled")
			fmt.Fprint(w, `Killed`)
		case "busy":
			if throttled++; throttled < 3 {
				w.Header().Set("X-Amzn-ErrorType", "TooManyRequestsException")
				w.WriteHeader(http.StatusTooManyRequests)
				fmt.Fprint(w, `{"Reason":"ReservedFunctionConcurrentInvocationLimitExceeded"}`)
				return
			}
			fmt.Fprint(w, `"at last"`)
		case "wrong":
			fmt.Fprint(w, "<html>")
		case "later":
			w.WriteHeader(http.StatusAccepted)
		case "empty":
		default:
			w.Header().Set("X-Amzn-ErrorType", "ResourceNotFoundException")
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprintf(w, `{"Type":"User","Message":"Function not found: %s"}`, name)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func TestLambda(t *testing.T) {
	clean(t, map[string]string{"AWS_ENDPOINT_URL_LAMBDA": lambdaServer(t)})
	l := open(t, time.Now)
	for _, c := range []struct {
		expr, want string
		kind       errs.Kind
		text       string
	}{
		{"aws_lambda('arn:aws:lambda:us-east-1:123456789012:function:echo', {'n': n}).got", `{"v":{"n":12345678901234567890}}`, 0, ""},
		{"aws_lambda('null', 1)", `{"v":null}`, 0, ""},
		{"aws_lambda('busy', 1)", `{"v":"at last"}`, 0, ""},
		{"aws_lambda('fails', 1)", "", errs.Invalid, `function "fails" failed: ValueError: no such unit`},
		{"aws_lambda('fails badly', 1)", "", errs.Invalid, `function "fails badly" failed`},
		{"aws_lambda('nobody', 1)", "", errs.Invalid, "ResourceNotFoundException"},
		{"aws_lambda('wrong', 1)", "", errs.Invalid, "not JSON"},
		{"aws_lambda('later', 1)", "", errs.Invalid, "status 202"},
		{"aws_lambda('empty', 1)", "", errs.Invalid, "answered nothing"},
		{"aws_lambda('', 1)", "", errs.Invalid, ""},
	} {
		got, err := evaluate(t, l, c.expr, `{"n":12345678901234567890}`)
		switch {
		case c.want != "":
			if err != nil || got != c.want {
				t.Errorf("%s: %s, %v; want %s", c.expr, got, err, c.want)
			}
		case err == nil || errs.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.text):
			t.Errorf("%s: %s, %v (%v); want %v with %q", c.expr, got, err, errs.KindOf(err), c.kind, c.text)
		}
	}
}

func TestSecrets(t *testing.T) {
	asked := map[string]int{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct{ SecretId, VersionStage, VersionId string }
		err := json.NewDecoder(r.Body).Decode(&in)
		if err != nil || r.Header.Get("X-Amz-Target") != "secretsmanager.GetSecretValue" || in.VersionId != "" || in.VersionStage != "" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		asked[in.SecretId]++
		switch in.SecretId {
		case "text":
			fmt.Fprint(w, `{"Name":"text","SecretString":"hunter2","VersionStages":["AWSCURRENT"]}`)
		case "json":
			fmt.Fprint(w, `{"Name":"json","SecretString":"{\"user\":\"u\",\"pin\":42}"}`)
		case "binary":
			fmt.Fprint(w, `{"Name":"binary","SecretBinary":"AP8="}`)
		case "odd":
			fmt.Fprint(w, `{"Name":"odd","SecretString":["hunter2"]}`)
		case "no json":
			fmt.Fprint(w, `hunter2`)
		case "tells":
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"__type":"InvalidRequestException","message":"the secret hunter2 is marked for deletion"}`)
		default:
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"__type":"ResourceNotFoundException","Message":"Secrets Manager can't find the specified secret."}`)
		}
	}))
	defer s.Close()
	clean(t, map[string]string{"AWS_ENDPOINT_URL_SECRETS_MANAGER": s.URL})
	now := time.Unix(1700000000, 0)
	l := open(t, func() time.Time { return now })
	for _, c := range []struct{ expr, want string }{ // want "": errs.Invalid
		{"get_secret('text', 'SecretString', 'role')", `{"v":"hunter2"}`},
		{"get_secret('json', 'SecretString', 'role')", `{"v":{"user":"u","pin":42}}`},
		{"get_secret('json', 'SecretString', 'pin', 'role')", `{"v":42}`},
		{"get_secret('binary', 'SecretBinary', 'role')", `{"v":"AP8="}`},
		{"get_secret('binary', 'SecretString', 'role')", ""},
		{"get_secret('text', 'SecretBinary', 'role')", ""},
		{"get_secret('text', 'SecretString', 'key', 'role')", ""},
		{"get_secret('json', 'SecretString', 'none', 'role')", ""},
		{"get_secret('odd', 'SecretString', 'role')", ""},
		{"get_secret('no json', 'SecretString', 'role')", ""},
		{"get_secret('tells', 'SecretString', 'role')", ""},
		{"get_secret('nowhere', 'SecretString', 'role')", ""},
	} {
		got, err := evaluate(t, l, c.expr, "{}")
		if got != c.want && c.want != "" || c.want == "" && !errs.Is(err, errs.Invalid) || err != nil && strings.Contains(err.Error(), "hunter") {
			t.Errorf("%s: %s, %v (%v); want %s", c.expr, got, err, errs.KindOf(err), c.want)
		}
	}
	if asked["json"] != 1 {
		t.Errorf("asked %d times for a secret", asked["json"])
	}
	now = now.Add(15 * time.Minute)
	if _, err := evaluate(t, l, "get_secret('json', 'SecretString', 'role')", "{}"); err != nil || asked["json"] != 2 {
		t.Errorf("after 15 minutes: asked %d times, %v", asked["json"], err)
	}
}

const s3rver = `
const S3rver = require("s3rver");
new S3rver({address: "127.0.0.1", port: 0, silent: true, directory: process.argv[1], vhostBuckets: false}).run((err, a) => {
	if (err) throw err;
	console.log("port " + a.port);
});
`

func TestDescriptor(t *testing.T) {
	url := "http://127.0.0.1:" + npm.Node(t, s3rver, regexp.MustCompile(`^port (\d+)$`), t.TempDir())
	clean(t, map[string]string{"AWS_ENDPOINT_URL_S3": url, "AWS_ACCESS_KEY_ID": "S3RVER", "AWS_SECRET_ACCESS_KEY": "S3RVER"})
	now := time.Unix(1700000000, 0)
	l := open(t, func() time.Time { return now })
	c := l.Descriptor.(*descriptorCache).r.(descriptors).c
	bucket := "descriptors"
	if _, err := c.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &bucket}); err != nil {
		t.Fatal(err)
	}
	put := func(key string, data string) {
		t.Helper()
		if _, err := c.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &bucket, Key: &key, Body: strings.NewReader(data)}); err != nil {
			t.Fatal(err)
		}
	}
	set, err := proto.Marshal(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{protodesc.ToFileDescriptorProto(durationpb.File_google_protobuf_duration_proto)}})
	if err != nil {
		t.Fatal(err)
	}
	message, err := proto.Marshal(durationpb.New(90 * time.Second))
	if err != nil {
		t.Fatal(err)
	}
	decode := func(bucket, key string) (string, error) {
		return evaluate(t, l, fmt.Sprintf("decode(*, 'proto', '%s', '%s', 'google/protobuf/duration.proto', 'Duration')", bucket, key), string(message))
	}
	put("dir/duration.desc", string(set))
	if got, err := decode(bucket, "dir/duration.desc"); err != nil || got != `{"v":"90s"}` {
		t.Errorf("%s, %v", got, err)
	}
	put("dir/duration.desc", "broken")
	if got, err := decode(bucket, "dir/duration.desc"); err != nil || got != `{"v":"90s"}` {
		t.Errorf("within a minute: %s, %v", got, err)
	}
	now = now.Add(descriptorAge)
	if got, err := decode(bucket, "dir/duration.desc"); !errs.Is(err, errs.Invalid) {
		t.Errorf("a broken descriptor: %s, %v", got, err)
	}
	for _, where := range [][2]string{{bucket, "nothing"}, {"no-bucket", "dir/duration.desc"}} {
		if got, err := decode(where[0], where[1]); !errs.Is(err, errs.NotFound) {
			t.Errorf("%s: %s, %v", where, got, err)
		}
	}
	put("nothing", string(set)) // what was missing is asked for again
	if got, err := decode(bucket, "nothing"); err != nil || got != `{"v":"90s"}` {
		t.Errorf("%s, %v", got, err)
	}
	put("large", strings.Repeat("x", maxDescriptor+1))
	if _, err := decode(bucket, "large"); !errs.Is(err, errs.TooLarge) {
		t.Errorf("a large descriptor: %v", err)
	}
	put("limit", strings.Repeat("x", maxDescriptor))
	if _, err := decode(bucket, "limit"); !errs.Is(err, errs.Invalid) {
		t.Errorf("a descriptor of the largest size: %v", err)
	}
}

type reader func(bucket, key string) ([]byte, error)

func (r reader) Descriptor(_ context.Context, bucket, key string) ([]byte, error) {
	return r(bucket, key)
}

func TestDescriptorCacheIsBounded(t *testing.T) {
	asked := 0
	c := cacheDescriptors(reader(func(_, key string) ([]byte, error) {
		if asked++; key == "bad" {
			return nil, errors.New("down")
		}
		return make([]byte, maxDescriptor), nil
	}), time.Now)
	for i := range 100 {
		if _, err := c.Descriptor(t.Context(), "b", fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
		sum := 0
		for k, d := range c.known {
			sum += weight(k, d.data)
		}
		if sum != c.size || sum > maxDescriptors {
			t.Fatalf("%d bytes are kept, counted as %d", sum, c.size)
		}
	}
	for range 2 {
		if _, err := c.Descriptor(t.Context(), "b", "bad"); err == nil {
			t.Error("no error")
		}
	}
	if asked != 102 {
		t.Errorf("asked %d times", asked)
	}
}
