// Package dynamodb is the rule actions dynamoDB and dynamoDBv2: they write each
// result to an item of a DynamoDB table, as one attribute or member by member.
//
// It is the last station of a message: the lane hands it a result, the table's
// answer is the confirmation. Both write by key, so that a repeated result
// leaves the same item.
package dynamodb

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsdynamodb "github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/weir-iot/weir/actions"
	"github.com/weir-iot/weir/actions/awsenv"
	"github.com/weir-iot/weir/actions/param"
)

const keyTypes = "STRING or NUMBER"

// Kind is the action dynamoDB.
// Source: AWS IoT API, DynamoDBAction; AWS IoT developer guide, "DynamoDB".
var Kind = actions.Kind{
	Name:    "dynamoDB",
	Summary: "Writes each result to one attribute of an item in a DynamoDB table, under keys from the rule.",
	Fields:  fields,
	New:     newAction,
}

// KindV2 is the action dynamoDBv2.
// Source: AWS IoT API, DynamoDBv2Action; AWS IoT developer guide, "DynamoDBv2".
var KindV2 = actions.Kind{
	Name:    "dynamoDBv2",
	Summary: "Writes each member of a result to an attribute of its own of an item in a DynamoDB table.",
	Fields:  fieldsV2,
	New:     newActionV2,
}

var fields = []actions.Field{
	{Name: "tableName", Type: actions.String, Required: true, Template: true, Help: "The table. It must exist."},
	{Name: "hashKeyField", Type: actions.String, Required: true, Template: true, Help: "The name of the partition key."},
	{Name: "hashKeyValue", Type: actions.String, Required: true, Template: true, Help: "The value of the partition key, such as `${topic()}`."},
	{Name: "hashKeyType", Type: actions.String, Template: true, Default: "STRING", Help: "The type of the partition key: " + keyTypes + "."},
	{Name: "rangeKeyField", Type: actions.String, Template: true, Help: "The name of the sort key; with rangeKeyValue or not at all."},
	{Name: "rangeKeyValue", Type: actions.String, Template: true, Help: "The value of the sort key, such as `${timestamp()}`."},
	{Name: "rangeKeyType", Type: actions.String, Template: true, Default: "STRING", Help: "The type of the sort key: " + keyTypes + "."},
	{Name: "payloadField", Type: actions.String, Template: true, Default: "payload", Help: "The attribute the result is written to: JSON as a map, list or scalar with exact numbers, all else as binary."},
	{Name: "operation", Type: actions.String, Template: true, Default: "INSERT",
		Help: "INSERT puts the item in place of an older one with the same key, UPDATE sets the result's attribute and keeps the item's others, DELETE removes the item."},
	param.Role,
}

var fieldsV2 = []actions.Field{
	{Name: "putItem", Type: actions.Object, Required: true, Help: "Where to put the item.", Fields: []actions.Field{
		{Name: "tableName", Type: actions.String, Required: true, Template: true,
			Help: "The table. The result must be a JSON object that has the table's keys among its members."},
	}},
	param.Role,
}

const maxInFlight = 32

// client connects at the first use.
type client struct {
	env actions.Env
	now func() time.Time

	mu sync.Mutex
	c  *awsdynamodb.Client // guarded by mu; nil until the first delivery
}

func (c *client) connect(ctx context.Context) (*awsdynamodb.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.c != nil {
		return c.c, nil
	}
	cfg, err := c.env.AWS(ctx)
	if err != nil {
		return nil, actions.Unreachable(err)
	}
	c.c = awsdynamodb.NewFromConfig(cfg, func(o *awsdynamodb.Options) { o.Retryer = aws.NopRetryer{} /* the lane retries */ })
	return c.c, nil
}

func (c *client) fail(table string, err error) error {
	return awsenv.Classify(fmt.Errorf("table %s: %w", table, err), c.now())
}

// each delivers results one by one: DynamoDB's batches refuse two items of one
// key and promise nothing in common.
func each(batch []*actions.Result, put func(*actions.Result) error) error {
	errs := make([]error, len(batch))
	for i, r := range batch {
		errs[i] = put(r)
	}
	return actions.Failures(errs)
}

type action struct {
	client
	table, operation, payload param.Text
	hash, sort                key
}

type key struct{ field, value, kind param.Text }

func newAction(_ context.Context, env actions.Env, raw json.RawMessage) (actions.Action, actions.Spec, error) {
	p := struct {
		TableName     string `json:"tableName"`
		HashKeyField  string `json:"hashKeyField"`
		HashKeyValue  string `json:"hashKeyValue"`
		HashKeyType   string `json:"hashKeyType"`
		RangeKeyField string `json:"rangeKeyField"`
		RangeKeyValue string `json:"rangeKeyValue"`
		RangeKeyType  string `json:"rangeKeyType"`
		PayloadField  string `json:"payloadField"`
		Operation     string `json:"operation"`
		RoleARN       string `json:"roleArn"`
	}{HashKeyType: "STRING", RangeKeyType: "STRING", PayloadField: "payload", Operation: "INSERT"}
	var spec actions.Spec
	if err := actions.Decode(raw, fields, &p); err != nil {
		return nil, spec, err
	}
	if err := param.CheckRole(p.RoleARN, "roleArn"); err != nil {
		return nil, spec, err
	}
	a := &action{client: client{env: env, now: time.Now}}
	for _, f := range []struct {
		name, src string
		into      *param.Text
		check     func(string) error
		optional  bool
	}{
		{"tableName", p.TableName, &a.table, checkTable, false},
		{"hashKeyField", p.HashKeyField, &a.hash.field, checkField, false},
		{"hashKeyValue", p.HashKeyValue, &a.hash.value, checkKeyText, false},
		{"hashKeyType", p.HashKeyType, &a.hash.kind, checkType, false},
		{"rangeKeyField", p.RangeKeyField, &a.sort.field, checkField, true},
		{"rangeKeyValue", p.RangeKeyValue, &a.sort.value, checkKeyText, true},
		{"rangeKeyType", p.RangeKeyType, &a.sort.kind, checkType, false},
		{"payloadField", p.PayloadField, &a.payload, checkField, false},
		{"operation", p.Operation, &a.operation, checkOperation, false},
	} {
		var err error
		if *f.into, err = param.Compile(env, f.src, f.name); err != nil {
			return nil, spec, err
		}
		if text, ok := f.into.Literal(); ok && !(f.optional && text == "") {
			if err := f.check(text); err != nil {
				return nil, spec, param.Wrong([]string{f.name}, err.Error(), "")
			}
		}
	}
	if a.sort.field.IsZero() != a.sort.value.IsZero() {
		return nil, spec, param.Wrong(nil, "rangeKeyField and rangeKeyValue belong together", "")
	}
	for _, k := range []struct {
		key
		name string
	}{{a.hash, "hashKeyValue"}, {a.sort, "rangeKeyValue"}} {
		kind, ok1 := k.kind.Literal()
		text, ok2 := k.value.Literal()
		if ok1 && ok2 && text != "" {
			if _, err := keyValue(kind, text); err != nil {
				return nil, spec, param.Wrong([]string{k.name}, err.Error(), "")
			}
		}
	}
	hash, ok1 := a.hash.field.Literal()
	sort, ok2 := a.sort.field.Literal()
	column, ok3 := a.payload.Literal()
	if ok1 && ok2 && hash == sort {
		return nil, spec, param.Wrong([]string{"rangeKeyField"}, fmt.Sprintf("%q is the partition key already", sort), "")
	}
	if ok3 && (ok1 && column == hash || ok2 && column == sort) {
		return nil, spec, param.Wrong([]string{"payloadField"}, fmt.Sprintf("%q is a key of the table", column), "")
	}
	if env.AWS == nil {
		return nil, spec, param.Wrong(nil, "AWS services are not available here", "")
	}
	return a, actions.Spec{MaxInFlight: maxInFlight, BatchMax: 1, Resource: a.table.Source()}, nil
}

// Source: Amazon DynamoDB developer guide, "Naming rules"; a table may also be
// given by its ARN.
var tableName = regexp.MustCompile(`^([A-Za-z0-9_.-]{3,255}|arn:aws[a-z-]*:dynamodb:[a-z0-9-]+:[0-9]{12}:table/[A-Za-z0-9_.-]{3,255})$`)

func checkTable(s string) error {
	if !tableName.MatchString(s) {
		return fmt.Errorf("%q is not a table name: 3 to 255 of a-z, A-Z, 0-9, '_', '-' and '.'", s)
	}
	return nil
}

func checkField(s string) error {
	if s == "" || len(s) > 255 {
		return fmt.Errorf("an attribute name has 1 to 255 bytes, this one %d", len(s))
	}
	if what, bad := param.Control(s); bad {
		return fmt.Errorf("an attribute name has a %s", what)
	}
	return nil
}

func checkKeyText(s string) error {
	if s == "" {
		return fmt.Errorf("the value of a key is empty")
	}
	return nil
}

func checkType(s string) error {
	if s != "STRING" && s != "NUMBER" {
		return fmt.Errorf("%q is not a key type: %s", s, keyTypes)
	}
	return nil
}

func checkOperation(s string) error {
	if s != "INSERT" && s != "UPDATE" && s != "DELETE" {
		return fmt.Errorf("%q is not an operation: INSERT, UPDATE or DELETE", s)
	}
	return nil
}

var number = regexp.MustCompile(`^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,4})?$`)

func keyValue(kind, text string) (types.AttributeValue, error) {
	if err := checkKeyText(text); err != nil {
		return nil, err
	}
	if kind == "NUMBER" {
		if text = strings.TrimSpace(text); len(text) > 200 || !number.MatchString(text) {
			return nil, fmt.Errorf("%.60q is not a number", text)
		}
		return &types.AttributeValueMemberN{Value: text}, nil
	}
	return &types.AttributeValueMemberS{Value: text}, nil
}

func (a *action) Deliver(ctx context.Context, batch []*actions.Result) error {
	return each(batch, func(r *actions.Result) error { return a.put(ctx, r) })
}

func (a *action) put(ctx context.Context, r *actions.Result) error {
	var text [9]string
	for i, f := range []struct {
		text  param.Text
		check func(string) error
	}{
		{a.table, checkTable}, {a.operation, checkOperation}, {a.payload, checkField},
		{a.hash.field, checkField}, {a.hash.value, checkKeyText}, {a.hash.kind, checkType},
		{a.sort.field, checkField}, {a.sort.value, checkKeyText}, {a.sort.kind, checkType},
	} {
		if f.text.IsZero() {
			continue
		}
		var err error
		if text[i], err = f.text.Execute(ctx, r.Event); err != nil {
			return err
		}
		if err := f.check(text[i]); err != nil {
			return actions.Permanent(err)
		}
	}
	table, operation, column := text[0], text[1], text[2]
	keys := map[string]types.AttributeValue{}
	for _, k := range [][3]string{{text[3], text[4], text[5]}, {text[6], text[7], text[8]}} {
		if k[0] == "" {
			continue
		}
		v, err := keyValue(k[2], k[1])
		if err != nil {
			return actions.Permanent(fmt.Errorf("key %s: %w", k[0], err))
		}
		keys[k[0]] = v
	}
	if _, ok := keys[column]; ok {
		return actions.Permanent(fmt.Errorf("payloadField: %q is a key of the table", column))
	}
	c, err := a.connect(ctx)
	if err != nil {
		return err
	}
	if operation == "DELETE" {
		_, err = c.DeleteItem(ctx, &awsdynamodb.DeleteItemInput{TableName: &table, Key: keys})
	} else {
		var v types.AttributeValue
		if v, err = attribute(r.Payload); err != nil {
			return actions.Permanent(err)
		}
		if operation == "UPDATE" {
			_, err = c.UpdateItem(ctx, &awsdynamodb.UpdateItemInput{
				TableName: &table, Key: keys,
				UpdateExpression:          aws.String("SET #p = :p"),
				ExpressionAttributeNames:  map[string]string{"#p": column},
				ExpressionAttributeValues: map[string]types.AttributeValue{":p": v},
			})
		} else {
			keys[column] = v
			_, err = c.PutItem(ctx, &awsdynamodb.PutItemInput{TableName: &table, Item: keys})
		}
	}
	if err != nil {
		return a.fail(table, err)
	}
	return nil
}

func (a *action) Close(context.Context) error { return nil }

type actionV2 struct {
	client
	table param.Text
}

func newActionV2(_ context.Context, env actions.Env, raw json.RawMessage) (actions.Action, actions.Spec, error) {
	var p struct {
		PutItem struct {
			TableName string `json:"tableName"`
		} `json:"putItem"`
		RoleARN string `json:"roleArn"`
	}
	var spec actions.Spec
	if err := actions.Decode(raw, fieldsV2, &p); err != nil {
		return nil, spec, err
	}
	if err := param.CheckRole(p.RoleARN, "roleArn"); err != nil {
		return nil, spec, err
	}
	a := &actionV2{client: client{env: env, now: time.Now}}
	var err error
	if a.table, err = param.Compile(env, p.PutItem.TableName, "putItem", "tableName"); err != nil {
		return nil, spec, err
	}
	if text, ok := a.table.Literal(); ok {
		if err := checkTable(text); err != nil {
			return nil, spec, param.Wrong([]string{"putItem", "tableName"}, err.Error(), "")
		}
	}
	if env.AWS == nil {
		return nil, spec, param.Wrong(nil, "AWS services are not available here", "")
	}
	return a, actions.Spec{MaxInFlight: maxInFlight, BatchMax: 1, Resource: a.table.Source()}, nil
}

func (a *actionV2) Deliver(ctx context.Context, batch []*actions.Result) error {
	return each(batch, func(r *actions.Result) error {
		table, err := a.table.Execute(ctx, r.Event)
		if err != nil {
			return err
		}
		if err := checkTable(table); err != nil {
			return actions.Permanent(err)
		}
		item, err := columns(r.Payload)
		if err != nil {
			return actions.Permanent(err)
		}
		c, err := a.connect(ctx)
		if err != nil {
			return err
		}
		if _, err := c.PutItem(ctx, &awsdynamodb.PutItemInput{TableName: &table, Item: item}); err != nil {
			return a.fail(table, err)
		}
		return nil
	})
}

func (a *actionV2) Close(context.Context) error { return nil }
