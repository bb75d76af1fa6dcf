package dynamodb

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsdynamodb "github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/weir-iot/weir/actions"
	"github.com/weir-iot/weir/actions/actiontest"
	"github.com/weir-iot/weir/actions/awsenv"
	"github.com/weir-iot/weir/test/npm"
)

const dynalite = `
const server = require("dynalite")({createTableMs: 0, deleteTableMs: 0, updateTableMs: 0});
server.listen(0, "127.0.0.1", () => console.log("port " + server.address().port));
`

func start(t testing.TB) string {
	return "http://127.0.0.1:" + npm.Node(t, dynalite, regexp.MustCompile(`^port (\d+)$`))
}

// environment points the AWS environment of the process at endpoint.
func environment(t testing.TB, endpoint string) *awsenv.Env {
	none := filepath.Join(t.TempDir(), "none")
	for k, v := range map[string]string{
		"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_SESSION_TOKEN": "", "AWS_PROFILE": "",
		"AWS_ENDPOINT_URL_DYNAMODB": endpoint, "AWS_REGION": "us-east-1", "AWS_CONFIG_FILE": none, "AWS_SHARED_CREDENTIALS_FILE": none,
	} {
		t.Setenv(k, v)
	}
	return awsenv.New(awsenv.Options{NoMetadata: true})
}

func sdk(t testing.TB, env *awsenv.Env) *awsdynamodb.Client {
	cfg, err := env.Config(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return awsdynamodb.NewFromConfig(cfg)
}

// table makes a table; a key is name:type with type S or N.
func table(t testing.TB, c *awsdynamodb.Client, name string, keys ...string) {
	t.Helper()
	in := &awsdynamodb.CreateTableInput{TableName: &name, BillingMode: types.BillingModePayPerRequest}
	for i, k := range keys {
		field, kind, _ := strings.Cut(k, ":")
		role := types.KeyTypeHash
		if i > 0 {
			role = types.KeyTypeRange
		}
		in.KeySchema = append(in.KeySchema, types.KeySchemaElement{AttributeName: &field, KeyType: role})
		in.AttributeDefinitions = append(in.AttributeDefinitions, types.AttributeDefinition{AttributeName: &field, AttributeType: types.ScalarAttributeType(kind)})
	}
	if _, err := c.CreateTable(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	// dynalite answers CREATING first, whatever it is told.
	w := awsdynamodb.NewTableExistsWaiter(c, func(o *awsdynamodb.TableExistsWaiterOptions) {
		o.MinDelay, o.MaxDelay = 5*time.Millisecond, 50*time.Millisecond
	})
	if err := w.Wait(t.Context(), &awsdynamodb.DescribeTableInput{TableName: &name}, time.Minute); err != nil {
		t.Fatal(err)
	}
}

func items(t testing.TB, c *awsdynamodb.Client, name string) []map[string]types.AttributeValue {
	t.Helper()
	out, err := c.Scan(t.Context(), &awsdynamodb.ScanInput{TableName: &name, ConsistentRead: aws.Bool(true)})
	if err != nil {
		t.Fatal(err)
	}
	return out.Items
}

// text writes an attribute so that two can be compared: members in order,
// numbers as they are.
func text(v types.AttributeValue) string {
	switch v := v.(type) {
	case *types.AttributeValueMemberS:
		return fmt.Sprintf("%q", v.Value)
	case *types.AttributeValueMemberN:
		return "N" + v.Value
	case *types.AttributeValueMemberB:
		return fmt.Sprintf("B%x", v.Value)
	case *types.AttributeValueMemberBOOL:
		return fmt.Sprint(v.Value)
	case *types.AttributeValueMemberNULL:
		return "null"
	case *types.AttributeValueMemberL:
		var s []string
		for _, x := range v.Value {
			s = append(s, text(x))
		}
		return "[" + strings.Join(s, ",") + "]"
	case *types.AttributeValueMemberM:
		var s []string
		for k, x := range v.Value {
			s = append(s, fmt.Sprintf("%q:%s", k, text(x)))
		}
		slices.Sort(s)
		return "{" + strings.Join(s, ",") + "}"
	}
	return fmt.Sprintf("%T", v)
}

// normal is text of a payload, with numbers as the table gives them back.
func normal(t testing.TB, p []byte) string {
	v, err := attribute(p)
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(text(v), "N0.10", "N0.1")
}

func TestContract(t *testing.T) {
	target := start(t)
	n := 0
	for _, c := range []struct {
		kind   actions.Kind
		config string
		keys   []string
		read   func(map[string]types.AttributeValue) string
	}{
		{Kind, `{"tableName":%q,"hashKeyField":"device","hashKeyValue":"${device}","rangeKeyField":"at","rangeKeyValue":"${n}","rangeKeyType":"NUMBER","payloadField":"data","roleArn":"arn:aws:iam::123456789012:role/r"}`,
			[]string{"device:S", "at:N"}, func(i map[string]types.AttributeValue) string { return text(i["data"]) }},
		{KindV2, `{"putItem":{"tableName":%q},"roleArn":"arn:aws:iam::123456789012:role/r"}`,
			[]string{"device:S"}, func(i map[string]types.AttributeValue) string { return text(&types.AttributeValueMemberM{Value: i}) }},
	} {
		t.Run(c.kind.Name, func(t *testing.T) {
			f := actiontest.Features{
				Kind: c.kind,
				Open: func(t testing.TB) *actiontest.Destination {
					n++
					name := fmt.Sprintf("table-%d", n)
					p := actiontest.NewProxy(t, target)
					env := environment(t, p.URL)
					table(t, sdk(t, env), name, c.keys...)
					return &actiontest.Destination{
						Config: fmt.Sprintf(c.config, name),
						Env:    func(e *actions.Env) { e.AWS = env.Config },
						Received: func(t testing.TB) (out []actiontest.Delivery) {
							for _, i := range items(t, sdk(t, env), name) {
								out = append(out, actiontest.Delivery{Payload: c.read(i)})
							}
							return out
						},
						Fault:   p.Set,
						Payload: normal,
					}
				},
				Bad: func(r *actions.Result) {
					r.Event.Payload = []byte(`{"device":""}`)
					r.Payload = []byte(`[1]`)
				},
				Keyed:        true,
				SharedClient: true,
			}
			actiontest.Run(t, f)
		})
	}
}

func open(t testing.TB, kind actions.Kind, env *awsenv.Env, config string) actions.Action {
	t.Helper()
	e := actiontest.Env(t, "")
	e.AWS = env.Config
	a, _, err := kind.New(t.Context(), e, json.RawMessage(config))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func result(payload string) *actions.Result {
	r := actiontest.Result(1)
	r.Payload = []byte(payload)
	r.Event.Payload = r.Payload
	return r
}

func TestOperations(t *testing.T) {
	env := environment(t, start(t))
	c := sdk(t, env)
	table(t, c, "state", "id:N")
	a := open(t, Kind, env, `{"tableName":"state","hashKeyField":"id","hashKeyValue":"${id}","hashKeyType":"NUMBER","operation":"${op}","payloadField":"${column}"}`)
	for _, step := range []struct{ payload, want string }{
		{`{"id":1,"op":"INSERT","column":"a","v":1}`, `a id`},
		{`{"id":1,"op":"UPDATE","column":"b","v":2}`, `a b id`},
		{`{"id":1,"op":"UPDATE","column":"b","v":3}`, `a b id`},
		{`{"id":1,"op":"INSERT","column":"c","v":4}`, `c id`},
		{`{"id":2,"op":"DELETE","column":"c"}`, `c id`},
		{`{"id":1,"op":"DELETE","column":"c"}`, ``},
		{`{"id":1,"op":"UPDATE","column":"d"}`, `d id`},
	} {
		for range 2 { // a repeat changes nothing
			if err := a.Deliver(t.Context(), []*actions.Result{result(step.payload)}); err != nil {
				t.Fatalf("%s: %v", step.payload, err)
			}
		}
		var got []string
		for _, i := range items(t, c, "state") {
			for k := range i {
				got = append(got, k)
			}
		}
		slices.Sort(got)
		if strings.Join(got, " ") != step.want {
			t.Errorf("%s: %v", step.payload, got)
		}
	}
	for _, p := range []string{
		`{"id":"x","op":"INSERT","column":"a"}`, `{"id":"","op":"INSERT","column":"a"}`, `{"id":1,"op":"insert","column":"a"}`,
		`{"id":1,"column":"a"}`, `{"id":1,"op":"INSERT","column":""}`, `{"id":1,"op":"INSERT","column":"id"}`,
	} {
		if err := a.Deliver(t.Context(), []*actions.Result{result(p)}); !actions.IsPermanent(err) {
			t.Errorf("%s: %v", p, err)
		}
	}
}

func TestBinaryPayload(t *testing.T) {
	env := environment(t, start(t))
	c := sdk(t, env)
	table(t, c, "raw", "topic:S")
	a := open(t, Kind, env, `{"tableName":"raw","hashKeyField":"topic","hashKeyValue":"k"}`)
	r := result("\x00\x01\xff")
	if err := a.Deliver(t.Context(), []*actions.Result{r}); err != nil {
		t.Fatal(err)
	}
	if got := text(items(t, c, "raw")[0]["payload"]); got != "B0001ff" {
		t.Errorf("%s", got)
	}
}

func TestAnswers(t *testing.T) {
	env := environment(t, start(t))
	c := sdk(t, env)
	table(t, c, "items", "id:S", "at:N")
	for name, x := range map[string]struct {
		kind            actions.Kind
		config, payload string
		code            string
	}{
		"no table":      {KindV2, `{"putItem":{"tableName":"missing"}}`, `{"id":"a","at":1}`, "ResourceNotFoundException"},
		"key missing":   {KindV2, `{"putItem":{"tableName":"items"}}`, `{"id":"a"}`, "ValidationException"},
		"key's type":    {KindV2, `{"putItem":{"tableName":"items"}}`, `{"id":1,"at":1}`, "ValidationException"},
		"not an object": {KindV2, `{"putItem":{"tableName":"items"}}`, `[1]`, ""},
		"not JSON":      {KindV2, `{"putItem":{"tableName":"items"}}`, "\xff", ""},
		"too precise":   {KindV2, `{"putItem":{"tableName":"items"}}`, `{"id":"a","at":1,"v":123456789012345678901234567890123456789}`, "ValidationException"},
		"too deep":      {KindV2, `{"putItem":{"tableName":"items"}}`, `{"id":"a","at":1,"v":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}`, ""},
		"no sort key":   {Kind, `{"tableName":"items","hashKeyField":"id","hashKeyValue":"x"}`, `{}`, "ValidationException"},
		"table's name":  {KindV2, `{"putItem":{"tableName":"${t}"}}`, `{"id":"a","at":1,"t":"a b"}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := open(t, x.kind, env, x.config).Deliver(t.Context(), []*actions.Result{result(x.payload)})
			if !actions.IsPermanent(err) || awsenv.Code(err) != x.code {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestThrottlingIsATry(t *testing.T) {
	for code, want := range map[string]string{
		"ProvisionedThroughputExceededException": "answered", "ThrottlingException": "answered", "RequestLimitExceeded": "answered",
		"InternalServerError": "answered", "ConditionalCheckFailedException": "permanent", "AccessDeniedException": "permanent",
		"UnrecognizedClientException": "permanent", "ExpiredTokenException": "answered",
	} {
		n := 0
		p := actiontest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n++
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", "application/x-amz-json-1.0")
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, `{"__type":"com.amazonaws.dynamodb.v20120810#%s","message":"no"}`, code)
		}))
		err := open(t, KindV2, environment(t, p.URL), `{"putItem":{"tableName":"items"}}`).Deliver(t.Context(), []*actions.Result{result(`{"a":1}`)})
		got := "answered"
		if actions.IsPermanent(err) {
			got = "permanent"
		} else if actions.IsUnreachable(err) || err == nil {
			got = fmt.Sprint(err)
		}
		if got != want || n != 1 {
			t.Errorf("%s: %s after %d requests, want %s: %v", code, got, n, want, err)
		}
	}
}

func TestCredentialsMissingWaits(t *testing.T) {
	env := environment(t, "http://127.0.0.1:1")
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	err := open(t, KindV2, env, `{"putItem":{"tableName":"items"}}`).Deliver(t.Context(), []*actions.Result{result(`{"a":1}`)})
	if !actions.IsUnreachable(err) || !strings.Contains(err.Error(), "credentials") {
		t.Errorf("%v", err)
	}
}

func TestConfigMistakes(t *testing.T) {
	for _, c := range []struct {
		kind               actions.Kind
		config, path, part string
	}{
		{Kind, `{"tableName":"items","hashKeyField":"id"}`, "", "hashKeyValue"},
		{Kind, `{"tableName":"x","hashKeyField":"id","hashKeyValue":"v"}`, "tableName", "table name"},
		{Kind, `{"tableName":"items","hashKeyField":"id","hashKeyValue":"v","hashKeyType":"BINARY"}`, "hashKeyType", "STRING or NUMBER"},
		{Kind, `{"tableName":"items","hashKeyField":"id","hashKeyValue":"v","hashKeyType":"NUMBER"}`, "hashKeyValue", "number"},
		{Kind, `{"tableName":"items","hashKeyField":"id","hashKeyValue":"v","rangeKeyField":"r"}`, "", "belong together"},
		{Kind, `{"tableName":"items","hashKeyField":"id","hashKeyValue":"v","rangeKeyField":"id","rangeKeyValue":"v"}`, "rangeKeyField", "partition key"},
		{Kind, `{"tableName":"items","hashKeyField":"id","hashKeyValue":"v","payloadField":"id"}`, "payloadField", "key"},
		{Kind, `{"tableName":"items","hashKeyField":"id","hashKeyValue":"v","operation":"PUT"}`, "operation", "INSERT"},
		{Kind, `{"tableName":"items","hashKeyField":"id","hashKeyValue":"${"}`, "hashKeyValue", ""},
		{Kind, `{"table":"items","hashKeyField":"id","hashKeyValue":"v"}`, "table", "tableName"},
		{KindV2, `{"putItem":{}}`, "putItem", "tableName"},
		{KindV2, `{"putItem":{"tablename":"items"}}`, "putItem.tablename", "tableName"},
		{KindV2, `{"putItem":{"tableName":"items"},"roleArn":"x"}`, "roleArn", "IAM role"},
	} {
		e := actiontest.Env(t, "")
		e.AWS = awsenv.New(awsenv.Options{}).Config
		_, _, err := c.kind.New(t.Context(), e, json.RawMessage(c.config))
		var fe *actions.FieldError
		if !errors.As(err, &fe) || strings.Join(fe.Path, ".") != c.path || !strings.Contains(err.Error(), c.part) {
			t.Errorf("%s: %v", c.config, err)
		}
	}
}

func TestAttribute(t *testing.T) {
	for in, want := range map[string]string{
		`{"a":1e400,"b":-0.0,"c":[],"d":{}}`: `{"a":N1e400,"b":N-0.0,"c":[],"d":{}}`,
		`"x"`:                                `"x"`,
		` 12 `:                               `N12`,
		`null`:                               `null`,
		`{"a":1} x`:                          `B7b2261223a317d2078`,
		`{"a":1`:                             `B7b2261223a31`,
		``:                                   `B`,
		`{"a":1}{}`:                          `B7b2261223a317d7b7d`,
		`[true,]`:                            `B5b747275652c5d`,
		`{"a":1,"a":2}`:                      `{"a":N2}`,
	} {
		v, err := attribute([]byte(in))
		if err != nil || text(v) != want {
			t.Errorf("%s: %s, %v", in, text(v), err)
		}
	}
}

func FuzzAttribute(f *testing.F) {
	for _, s := range []string{`{"a":[1,{"b":null}]}`, `[`, `]`, `{"a"}`, "\xff", `1 2`, strings.Repeat("[", 50)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		v, err := attribute(in)
		if err != nil {
			return
		}
		if b, ok := v.(*types.AttributeValueMemberB); ok {
			if !reflect.DeepEqual(b.Value, in) {
				t.Fatal("the bytes changed")
			}
		} else if !json.Valid(in) {
			t.Fatalf("%q is not JSON, and was read as %s", in, text(v))
		}
	})
}
