package awsapi

import (
	"context"
	_ "embed"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/weir-iot/weir/internal/errs"
)

// Service is one of the APIs, by the name its client packages have.
type Service string

const (
	IoT  Service = "iot"
	Data Service = "iot-data"
	Jobs Service = "iot-jobs-data"
)

// signingNames are the services a signature may name, and what they reach. AWS
// CLI 2.9 and other clients of its time sign for execute-api where they mean iot.
var signingNames = map[string]Service{
	"iot": IoT, "execute-api": IoT, "iotdata": Data, "iotdevicegateway": Data, "iot-jobs-data": Jobs,
}

// SigningNames returns the services a signature may name.
func SigningNames() []string { return slices.Sorted(maps.Keys(signingNames)) }

//go:embed model/operations.txt
var model string

// Listed is one operation of the public API model.
type Listed struct {
	Service Service
	Name    string
	Method  string
	Path    string // with {labels}
}

// Model returns the operations of the public API model, sorted by service and
// name: what is asked for, whether Weir has it or not.
func Model() []Listed {
	var out []Listed
	for line := range strings.Lines(model) {
		f := strings.Fields(line)
		if len(f) != 4 || f[0] == "#" {
			continue
		}
		out = append(out, Listed{Service(f[0]), f[1], f[2], f[3]})
	}
	return out
}

// operation is one row of the table.
type operation struct {
	Listed
	action   string // what the caller must be permitted, such as "iot:CreateThing"
	resource string // on what: the end of an ARN with {members} of the request, {/those} behind a slash where they are there, {arn:those} that are whole ARNs, or "*"
	partly   string // what is missing; empty: nothing
	maxBody  int64  // bytes; 0: maxBody

	labels  []string // of the path
	request reflect.Type
	// handle answers; nil: the operation is refused by name. The request is a
	// pointer to a struct of type request.
	handle func(a *API, ctx context.Context, request any) (any, error)
}

// option changes a row.
type option func(*operation)

// partly says what the operation does not do.
func partly(what string) option { return func(o *operation) { o.partly = what } }

// atMost says how long a body may be.
func atMost(bytes int64) option { return func(o *operation) { o.maxBody = bytes } }

// op makes a row of the table. Method and path come from the model.
func op[Q, R any](s Service, name, resource string, handle func(*API, context.Context, *Q) (*R, error), more ...option) operation {
	o := operation{
		Listed: Listed{Service: s, Name: name}, action: "iot:" + name, resource: resource, request: reflect.TypeFor[Q](),
		handle: func(a *API, ctx context.Context, request any) (any, error) {
			r, err := handle(a, ctx, request.(*Q))
			if err != nil {
				return nil, err
			}
			return r, nil
		},
	}
	for _, f := range more {
		f(&o)
	}
	return o
}

// none is a request or an answer without members.
type none struct{}

// operations is the table: every operation Weir has, service by service.
func operations() []operation {
	var all []operation
	for _, part := range [][]operation{
		thingOperations(), groupOperations(), certificateOperations(), policyOperations(), principalOperations(), decisionOperations(),
		tagOperations(), authorizerOperations(), domainOperations(), templateOperations(), roleAliasOperations(), loggingOperations(), eventOperations(),
		ruleOperations(), destinationOperations(), endpointOperations(), dataOperations(), shadowOperations(), connectionOperations(), searchOperations(),
	} {
		all = append(all, part...)
	}
	return all
}

// table joins the operations with the model; those that only the model has get
// no handler.
func table() (map[Service]*routes, []*operation, error) {
	have := map[string]*operation{}
	for _, o := range operations() {
		key := string(o.Service) + " " + o.Name
		if have[key] != nil {
			return nil, nil, fmt.Errorf("awsapi: %s is in the table twice", key)
		}
		have[key] = &o
	}
	out := map[Service]*routes{IoT: {}, Data: {}, Jobs: {}}
	var all []*operation
	for _, l := range Model() {
		key := string(l.Service) + " " + l.Name
		o := have[key]
		if o == nil {
			o = &operation{}
		}
		delete(have, key)
		o.Listed = l
		if err := out[l.Service].add(o); err != nil {
			return nil, nil, err
		}
		all = append(all, o)
	}
	for key := range have {
		return nil, nil, fmt.Errorf("awsapi: the model has no operation %s", key)
	}
	return out, all, nil
}

// codeOf returns the code of a room's error in an answer of o.
func (o *operation) codeOf(k errs.Kind) string {
	s := o.Service
	if s == Jobs {
		s = Data
	}
	return codes[s][k]
}

// arn returns what o acts on, for the policy: the resource with the request's
// members filled in, behind the account's prefix.
func (o *operation) arn(prefix string, request reflect.Value) string {
	text := o.resource
	if text == "*" || text == "" {
		return "*"
	}
	var b strings.Builder
	if !strings.HasPrefix(text, "{arn:") {
		b.WriteString(prefix)
	} else {
		text = "{" + text[len("{arn:"):]
	}
	for {
		before, rest, ok := strings.Cut(text, "{")
		b.WriteString(before)
		if !ok {
			return b.String()
		}
		var name string
		name, text, _ = strings.Cut(rest, "}")
		name, optional := strings.CutPrefix(name, "/")
		value := memberText(request, name)
		if optional && value != "" {
			b.WriteByte('/')
		}
		b.WriteString(value)
	}
}

func memberText(request reflect.Value, name string) string {
	s := shapeOf(request.Type())
	for i := range s.members {
		if s.members[i].name == name {
			v := request.Field(s.members[i].index)
			if v.Kind() == reflect.Pointer {
				if v.IsNil() {
					return ""
				}
				v = v.Elem()
			}
			return v.String()
		}
	}
	panic("awsapi: no member " + name)
}
