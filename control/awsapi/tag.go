package awsapi

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/weir-iot/weir/internal/errs"
)

func tagOperations() []operation {
	const resource = "{arn:resourceArn}"
	return []operation{
		op(IoT, "TagResource", resource, (*API).tagResource),
		op(IoT, "UntagResource", resource, (*API).untagResource),
		op(IoT, "ListTagsForResource", resource, (*API).listTagsForResource),
	}
}

type tag struct {
	Key   string `json:"Key" is:"required 1..128 ~tag"`
	Value string `json:"Value" is:"..256 ~tag"`
}

// tagsOf returns the tags of a request; nil for none.
func tagsOf(list []tag) (map[string]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	out := make(map[string]string, len(list))
	for _, t := range list {
		if _, twice := out[t.Key]; twice {
			return nil, invalid("the tag %s is there twice", t.Key)
		}
		out[t.Key] = t.Value
	}
	return out, nil
}

// taggable refuses the ARN of a rule that is not there: rules are kept elsewhere
// than their tags.
func (a *API) taggable(ctx context.Context, arn string) error {
	rule, ok := strings.CutPrefix(arn, a.ruleARN(""))
	if !ok {
		return nil
	}
	_, err := a.o.Rules.Rule(ctx, rule)
	if errs.Is(err, errs.NotFound) {
		return notFound("there is no rule %s", clip(rule))
	}
	return err
}

type tagResourceRequest struct {
	ResourceARN string `json:"resourceArn" is:"required 1..2048"`
	Tags        []tag  `json:"tags" is:"required ..50"`
}

func (a *API) tagResource(ctx context.Context, q *tagResourceRequest) (*none, error) {
	tags, err := tagsOf(q.Tags)
	if err != nil {
		return nil, err
	}
	if err := a.taggable(ctx, q.ResourceARN); err != nil {
		return nil, err
	}
	return &none{}, a.o.Registry.TagResource(ctx, q.ResourceARN, tags)
}

type untagResourceRequest struct {
	ResourceARN string   `json:"resourceArn" is:"required 1..2048"`
	TagKeys     []string `json:"tagKeys" is:"required ..50" each:"1..128 ~tag"`
}

func (a *API) untagResource(ctx context.Context, q *untagResourceRequest) (*none, error) {
	if err := a.taggable(ctx, q.ResourceARN); err != nil {
		return nil, err
	}
	return &none{}, a.o.Registry.UntagResource(ctx, q.ResourceARN, q.TagKeys)
}

type listTagsForResourceRequest struct {
	ResourceARN string `json:"resourceArn" in:"query" is:"required 1..2048"`
	NextToken   string `json:"nextToken" in:"query"`
}

type listTagsForResourceResponse struct {
	Tags []tag `json:"tags"`
}

// listTagsForResource answers all tags at once: there are 50 at most.
func (a *API) listTagsForResource(ctx context.Context, q *listTagsForResourceRequest) (*listTagsForResourceResponse, error) {
	if q.NextToken != "" {
		return nil, invalid("nextToken is not one of this list")
	}
	if err := a.taggable(ctx, q.ResourceARN); err != nil {
		return nil, err
	}
	tags, err := a.o.Registry.Tags(q.ResourceARN)
	if err != nil {
		return nil, err
	}
	out := &listTagsForResourceResponse{Tags: []tag{}}
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		out.Tags = append(out.Tags, tag{k, tags[k]})
	}
	return out, nil
}
