package eval

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weir-iot/weir/internal/errs"
)

const (
	// lookupTime is what a look-up may take.
	lookupTime = 2 * time.Second
	// maxLookups bounds the different look-ups of one evaluation: a nested query
	// may ask for each of its items.
	maxLookups = 64
	// maxItem bounds an item of get_dynamodb.
	maxItem = 8 << 10
)

// lookupFunctions call out while the statement is evaluated. Each asks its
// service once for the same arguments in one evaluation.
var lookupFunctions = []Function{
	{
		Name: "aws_lambda", Signature: "aws_lambda(arn, input)", MinArgs: 2, MaxArgs: 2, Service: LambdaService, Source: "iot-func-aws-lambda",
		Summary: "What a function answers, as JSON. The input is any value; * is the whole payload. It must answer within 2 seconds; " +
			"a function that fails, or that does not exist, makes the evaluation fail.",
		Eval: func(c *Call, args []Value) Value {
			if args[0].Kind() != String || args[1].IsUndefined() {
				return Value{}
			}
			arn, input := args[0].Str(), args[1].AppendJSON(nil)
			if !c.Charge(len(input)) {
				return Value{}
			}
			return lookup(c, "aws_lambda", []string{arn, string(input)}, func(ctx context.Context) ([]byte, error) {
				return c.Lookups().Lambda.Invoke(ctx, arn, input)
			})
		},
	},
	{
		Name: "get_dynamodb", Since: V2016, Signature: "get_dynamodb(table, pk, pkvalue[, sk, skvalue], role)", MinArgs: 4, MaxArgs: 6, Counts: []int{4, 6}, NoVars: []int{-1},
		Service: TableService, Source: "iot-sql-function-get-dynamodb",
		Summary: "An item of a DynamoDB table as an Object, Undefined where there is none. Key values are Strings or numbers. " +
			"Numbers are exact to 34 digits, binary attributes are base64, sets are Arrays. " +
			"It may be called once in a statement; an item over 8 KiB makes the evaluation fail.",
		Eval: getItem,
	},
	{
		Name: "get_registry_data", Since: V2016, Signature: "get_registry_data(api, thing, role)", MinArgs: 3, MaxArgs: 3, Literal: []int{0, 2}, NoVars: []int{2},
		Service: RegistryService, Source: "iot-sql-functions",
		Summary: "What the registry answers for a thing. api is 'DescribeThing' or 'ListThingGroupsForThing'.",
		Eval: func(c *Call, args []Value) Value {
			api := args[0].Str()
			if api != "DescribeThing" && api != "ListThingGroupsForThing" || args[1].Kind() != String {
				return Value{}
			}
			return lookup(c, "get_registry_data", texts(args), func(ctx context.Context) ([]byte, error) {
				return c.Lookups().Registry.Registry(ctx, api, args[1].Str(), args[2].Str())
			})
		},
	},
	{
		Name: "get_secret", Signature: "get_secret(id, type[, key], role)", MinArgs: 3, MaxArgs: 4, NoVars: []int{-1},
		Service: SecretService, Source: "iot-sql-function-get-secret",
		Summary: "The current version of a secret. type is 'SecretString', which gives its text, or an Object where that is JSON, or 'SecretBinary', which gives base64. " +
			"A key picks one member of a JSON secret; for any other secret it is an error, and so is a secret that does not exist. " +
			"Secrets are read again after 15 minutes.",
		Eval: getSecret,
	},
	{
		Name: "get_thing_shadow", Since: V2016, Signature: "get_thing_shadow(thing[, shadow], role)", MinArgs: 2, MaxArgs: 3, NoVars: []int{-1},
		Service: ShadowService, Source: "iot-sql-function-get-thing-shadow",
		Summary: "The document of a thing's shadow: state, metadata, version. Without a shadow name it is the unnamed one.",
		Eval: func(c *Call, args []Value) Value {
			if !allStrings(args) {
				return Value{}
			}
			thing, name, role := args[0].Str(), "", args[len(args)-1].Str()
			if len(args) == 3 {
				name = args[1].Str()
			}
			return lookup(c, "get_thing_shadow", []string{thing, name, role}, func(ctx context.Context) ([]byte, error) {
				return c.Lookups().Shadow.Shadow(ctx, thing, name, role)
			})
		},
	},
	{
		Name: "machinelearning_predict", Signature: "machinelearning_predict(model, role, record)", MinArgs: 3, MaxArgs: 3, NoVars: []int{1},
		Service: PredictService, Source: "iot-sql-function-machine-learning",
		Summary: "The prediction of a machine learning model: predictedLabel, predictedScores, predictedValue and details. " +
			"The record is an Object one level deep; what is deeper is passed as JSON text.",
		Eval: func(c *Call, args []Value) Value {
			if !allStrings(args[:2]) || args[2].Kind() != Object {
				return Value{}
			}
			members := slices.Clone(c.Members(args[2]))
			for i, m := range members {
				if k := m.Value.Kind(); k == Object || k == Array {
					members[i].Value = textOf(c, m.Value)
				}
			}
			record := ObjectValue(members).AppendJSON(nil)
			if !c.Charge(len(record)) {
				return Value{}
			}
			return lookup(c, "machinelearning_predict", []string{args[0].Str(), args[1].Str(), string(record)}, func(ctx context.Context) ([]byte, error) {
				return c.Lookups().Predict.Predict(ctx, args[0].Str(), args[1].Str(), record)
			})
		},
	},
}

func allStrings(args []Value) bool {
	return !slices.ContainsFunc(args, func(v Value) bool { return v.Kind() != String })
}

func texts(args []Value) []string {
	t := make([]string, len(args))
	for i := range args {
		t[i] = args[i].Str()
	}
	return t
}

// answer is what a service said.
type answer struct {
	data []byte // nil: there is nothing
	err  error
}

// ask calls a service, once in an evaluation for the same arguments.
func ask(c *Call, function string, args []string, call func(context.Context) ([]byte, error)) answer {
	return c.Once(function, fmt.Sprintf("%q", args), func() any {
		if len(c.m.answers) >= maxLookups {
			return answer{err: errs.Errorf("eval."+function, errs.Quota, "more than %d different look-ups in one evaluation", maxLookups)}
		}
		ctx, cancel := context.WithTimeout(c.Context(), lookupTime)
		defer cancel()
		data, err := call(ctx)
		switch {
		case errs.Is(err, errs.NotFound):
			return answer{}
		case errors.Is(err, context.DeadlineExceeded):
			return answer{err: errs.Errorf("eval."+function, errs.Timeout, "no answer in time: %w", err)}
		case err != nil:
			return answer{err: errs.E("eval."+function, errs.KindOf(err), err)}
		}
		return answer{data: data}
	}).(answer)
}

// lookup asks a service that answers with JSON.
func lookup(c *Call, function string, args []string, call func(context.Context) ([]byte, error)) Value {
	a := ask(c, function, args, call)
	switch {
	case a.err != nil:
		return c.Fail(a.err)
	case a.data == nil || !c.Charge(len(a.data)):
		return Value{}
	}
	v, ok := ParseJSON(a.data, c.Version())
	if !ok {
		return c.Fail(errs.Errorf("eval."+function, errs.Invalid, "the answer of %s is not JSON", function))
	}
	return v
}

func getItem(c *Call, args []Value) Value {
	const op = "eval.get_dynamodb"
	role := args[len(args)-1]
	if args[0].Kind() != String || args[1].Kind() != String || role.Kind() != String {
		return Value{}
	}
	partition, ok := tableKey(c, args[1], args[2])
	if !ok {
		return Value{}
	}
	var sort *TableKey
	if len(args) == 6 {
		k, ok := tableKey(c, args[3], args[4])
		if !ok {
			return Value{}
		}
		sort = &k
	}
	asked := []string{args[0].Str(), fmt.Sprint(partition, len(args)), role.Str()}
	if sort != nil {
		asked = append(asked, fmt.Sprint(*sort))
	}
	a := ask(c, "get_dynamodb", asked, func(ctx context.Context) ([]byte, error) {
		return c.Lookups().Table.Item(ctx, args[0].Str(), partition, sort, role.Str())
	})
	switch {
	case a.err != nil:
		return c.Fail(a.err)
	case a.data == nil:
		return Value{}
	case len(a.data) > maxItem:
		return c.Fail(errs.Errorf(op, errs.TooLarge, "the item has %d bytes; get_dynamodb takes up to %d", len(a.data), maxItem))
	case !c.Charge(len(a.data)):
		return Value{}
	}
	v, ok := ParseJSON(a.data, c.Version())
	if !ok {
		return c.Fail(errs.Errorf(op, errs.Invalid, "the item is not JSON"))
	}
	return v
}

func tableKey(c *Call, name, value Value) (TableKey, bool) {
	if name.Kind() != String || value.Kind() != String && !value.IsNumber() {
		return TableKey{}, false
	}
	return TableKey{Name: name.Str(), Value: textOf(c, value).Str(), Number: value.IsNumber()}, true
}

func getSecret(c *Call, args []Value) Value {
	const op = "eval.get_secret"
	if !allStrings(args) {
		return Value{}
	}
	id, kind, role := args[0].Str(), args[1].Str(), args[len(args)-1].Str()
	binary := kind == "SecretBinary"
	if !binary && kind != "SecretString" {
		return Value{}
	}
	if binary && len(args) == 4 {
		return c.Fail(errs.Errorf(op, errs.Invalid, "a SecretBinary has no keys"))
	}
	a := ask(c, "get_secret", []string{id, kind, role}, func(ctx context.Context) ([]byte, error) {
		return c.Lookups().Secret.Secret(ctx, id, binary, role)
	})
	switch {
	case a.err != nil:
		return c.Fail(a.err)
	case a.data == nil || !c.Charge(2*len(a.data)):
		return Value{}
	case binary:
		return StringValue(base64.StdEncoding.EncodeToString(a.data))
	}
	v, isJSON := ParseJSON(a.data, c.Version())
	if len(args) == 3 {
		if isJSON && v.Kind() == Object {
			return v
		}
		return StringValue(string(a.data))
	}
	if !isJSON || v.Kind() != Object {
		return c.Fail(errs.Errorf(op, errs.Invalid, "the secret is not a JSON object, so it has no key %s", strings.ToValidUTF8(args[2].Str(), "\ufffd")))
	}
	m := c.Member(v, args[2].Str())
	if m.IsUndefined() {
		return c.Fail(errs.Errorf(op, errs.Invalid, "the secret has no key %s", strings.ToValidUTF8(args[2].Str(), "\ufffd")))
	}
	return m
}
