// Package s3 is the rule action s3: it writes each result to an object of
// Amazon S3, or of whatever speaks its protocol.
//
// It is the last station of a message: the lane hands it a result, the bucket's
// answer is the confirmation.
package s3

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/weir-iot/weir/actions"
	"github.com/weir-iot/weir/actions/awsenv"
	"github.com/weir-iot/weir/actions/param"
)

// Kind is the action s3.
// Source: AWS IoT API, S3Action; AWS IoT developer guide, "S3".
var Kind = actions.Kind{
	Name:    "s3",
	Summary: "Writes each result to an object in an S3 bucket.",
	Fields:  fields,
	New:     newAction,
}

var fields = []actions.Field{
	{Name: "bucketName", Type: actions.String, Required: true, Template: true, Help: "The bucket. It must exist."},
	{Name: "key", Type: actions.String, Required: true, Template: true,
		Help: "The object's key, 1 to 1,024 bytes. A constant key is overwritten by each result; `${topic()}/${timestamp()}` makes an object of each. Control characters and levels that are `.` or `..` are refused."},
	{Name: "cannedAcl", Type: actions.String, Help: "The canned ACL of the object.",
		Values: []string{"private", "public-read", "public-read-write", "aws-exec-read", "authenticated-read", "bucket-owner-read", "bucket-owner-full-control", "log-delivery-write"}},
	param.Role,
}

const (
	maxKey      = 1024 // bytes. Source: Amazon S3 user guide, "Object key names".
	maxInFlight = 32
)

type action struct {
	env    actions.Env
	bucket param.Text
	key    param.Text
	acl    types.ObjectCannedACL
	now    func() time.Time

	mu     sync.Mutex
	client *awss3.Client // guarded by mu; nil until the first delivery
}

func newAction(_ context.Context, env actions.Env, raw json.RawMessage) (actions.Action, actions.Spec, error) {
	var p struct {
		BucketName string `json:"bucketName"`
		Key        string `json:"key"`
		CannedACL  string `json:"cannedAcl"`
		RoleARN    string `json:"roleArn"`
	}
	var spec actions.Spec
	if err := actions.Decode(raw, fields, &p); err != nil {
		return nil, spec, err
	}
	if err := param.CheckRole(p.RoleARN, "roleArn"); err != nil {
		return nil, spec, err
	}
	a := &action{env: env, acl: types.ObjectCannedACL(p.CannedACL), now: time.Now}
	var err error
	if a.bucket, err = param.Compile(env, p.BucketName, "bucketName"); err != nil {
		return nil, spec, err
	}
	if name, ok := a.bucket.Literal(); ok {
		if err := checkBucket(name); err != nil {
			return nil, spec, param.Wrong([]string{"bucketName"}, err.Error(), "3 to 63 of a-z, 0-9, '-' and '.'")
		}
	}
	if a.key, err = param.Compile(env, p.Key, "key"); err != nil {
		return nil, spec, err
	}
	if key, ok := a.key.Literal(); ok {
		if err := checkKey(key); err != nil {
			return nil, spec, param.Wrong([]string{"key"}, err.Error(), "")
		}
	}
	if env.AWS == nil {
		return nil, spec, param.Wrong(nil, "AWS services are not available here", "")
	}
	return a, actions.Spec{MaxInFlight: maxInFlight, BatchMax: 1, Resource: a.bucket.Source()}, nil
}

var bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)

func checkBucket(s string) error {
	if !bucketName.MatchString(s) || strings.Contains(s, "..") {
		return fmt.Errorf("%q is not a bucket name", s)
	}
	return nil
}

// checkKey refuses what a key's readers could stumble over. Dot levels are legal
// at Amazon S3, but HTTP clients and servers over a file system fold them, and
// the object would come to lie elsewhere.
func checkKey(s string) error {
	if s == "" {
		return fmt.Errorf("the key is empty")
	}
	if len(s) > maxKey {
		return fmt.Errorf("the key has %d bytes, at most %d are allowed", len(s), maxKey)
	}
	if what, bad := param.Control(s); bad {
		return fmt.Errorf("the key has a %s", what)
	}
	for level := range strings.SplitSeq(s, "/") {
		if level == "." || level == ".." {
			return fmt.Errorf("the key %q has the level %q", s, level)
		}
	}
	return nil
}

func (a *action) Deliver(ctx context.Context, batch []*actions.Result) error {
	errs := make([]error, len(batch))
	for i, r := range batch {
		errs[i] = a.put(ctx, r)
	}
	return actions.Failures(errs)
}

func (a *action) put(ctx context.Context, r *actions.Result) error {
	bucket, err := a.bucket.Execute(ctx, r.Event)
	if err != nil {
		return err
	}
	if err := checkBucket(bucket); err != nil {
		return actions.Permanent(err)
	}
	key, err := a.key.Execute(ctx, r.Event)
	if err != nil {
		return err
	}
	if err := checkKey(key); err != nil {
		return actions.Permanent(err)
	}
	client, err := a.connect(ctx)
	if err != nil {
		return actions.Unreachable(err)
	}
	_, err = client.PutObject(ctx, &awss3.PutObjectInput{
		Bucket: &bucket, Key: &key, ACL: a.acl,
		Body: bytes.NewReader(r.Payload), ContentLength: aws.Int64(int64(len(r.Payload))),
	})
	if err != nil {
		err = awsenv.Classify(fmt.Errorf("s3://%s/%s: %w", bucket, key, err), a.now())
		if awsenv.Code(err) == "NoSuchBucket" || awsenv.Code(err) == "AccessDenied" {
			err = actions.Permanent(err)
		}
		return err
	}
	return nil
}

func (a *action) connect(ctx context.Context) (*awss3.Client, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.client != nil {
		return a.client, nil
	}
	cfg, err := a.env.AWS(ctx)
	if err != nil {
		return nil, err
	}
	a.client = awss3.NewFromConfig(cfg, func(o *awss3.Options) {
		o.Retryer = aws.NopRetryer{} // the lane retries
		o.DisableLogOutputChecksumValidationSkipped = true
		if o.BaseEndpoint == nil {
			o.BaseEndpoint = awsenv.LocalEndpoint(cfg)
		}
		if o.BaseEndpoint != nil {
			// Not Amazon's: few others serve buckets as host names or read checksums
			// that trail the body.
			o.UsePathStyle = true
			o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		}
	})
	return a.client, nil
}

func (a *action) Close(context.Context) error { return nil }
