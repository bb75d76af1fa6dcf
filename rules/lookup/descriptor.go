package lookup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/rules/eval"
)

const (
	maxDescriptor  = 1 << 20 // bytes; decode takes no larger ones
	descriptorAge  = time.Minute
	maxDescriptors = 16 << 20 // bytes that are kept
)

// descriptors reads objects with GetObject.
type descriptors struct{ c *s3.Client }

// Descriptor implements eval.DescriptorReader. Errors: errs.NotFound for an
// object or bucket that does not exist.
func (d descriptors) Descriptor(ctx context.Context, bucket, key string) ([]byte, error) {
	const op = "lookup.Descriptor"
	what := fmt.Sprintf("descriptor %.255q in bucket %.63q", key, bucket)
	out, err := d.c.GetObject(ctx, &s3.GetObjectInput{Bucket: &bucket, Key: &key})
	if err != nil {
		var resp *awshttp.ResponseError
		if errors.As(err, &resp) && resp.Response != nil && resp.HTTPStatusCode() == http.StatusNotFound {
			return nil, errs.Errorf(op, errs.NotFound, "%s does not exist", what)
		}
		return nil, failed(op, what, "S3", err, true)
	}
	defer out.Body.Close()
	data, err := io.ReadAll(out.Body)
	switch {
	case err == nil:
		return data, nil
	case errors.Is(err, errTooLarge):
		return nil, errs.Errorf(op, errs.TooLarge, "%s is larger than %d bytes", what, maxDescriptor)
	case ctx.Err() != nil: // the connection's own error may hide it
		return nil, failed(op, what, "S3", ctx.Err(), true)
	}
	return nil, errs.Errorf(op, errs.Unavailable, "%s: the answer of S3 broke off", what)
}

// descriptorCache asks for an object at most every minute: a descriptor is read
// for each message, and changes with a release of its devices. Failures are not
// kept.
type descriptorCache struct {
	r   eval.DescriptorReader
	now func() time.Time

	mu    sync.Mutex
	known map[[2]string]descriptor // guarded by mu, as is size
	size  int                      // bytes of known
}

type descriptor struct {
	data []byte
	read time.Time
}

func cacheDescriptors(r eval.DescriptorReader, now func() time.Time) *descriptorCache {
	return &descriptorCache{r: r, now: now, known: map[[2]string]descriptor{}}
}

// Descriptor implements eval.DescriptorReader.
func (c *descriptorCache) Descriptor(ctx context.Context, bucket, key string) ([]byte, error) {
	at, where := c.now(), [2]string{bucket, key}
	c.mu.Lock()
	d, ok := c.known[where]
	c.mu.Unlock()
	if ok && at.Sub(d.read) < descriptorAge {
		return d.data, nil
	}
	data, err := c.r.Descriptor(ctx, bucket, key)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if d, ok := c.known[where]; ok {
		c.size -= weight(where, d.data)
	}
	if c.size += weight(where, data); c.size > maxDescriptors {
		clear(c.known)
		c.size = weight(where, data)
	}
	c.known[where] = descriptor{data, at}
	return data, nil
}

// weight is what an entry counts: keys may come from payloads, so that there can
// be many of nothing.
func weight(where [2]string, data []byte) int { return len(data) + len(where[0]) + len(where[1]) + 128 }
