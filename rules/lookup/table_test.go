package lookup

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/rules/eval"
	"github.com/weir-iot/weir/test/npm"
)

const dynalite = `
const server = require("dynalite")({createTableMs: 0, deleteTableMs: 0, updateTableMs: 0});
server.listen(0, "127.0.0.1", () => console.log("port " + server.address().port));
`

// makeTable makes a table with a partition key p and, where it is given, a sort
// key s, which is a number.
func makeTable(t testing.TB, c *dynamodb.Client, name string, partition types.ScalarAttributeType, sorted bool) {
	t.Helper()
	in := &dynamodb.CreateTableInput{TableName: &name, BillingMode: types.BillingModePayPerRequest,
		KeySchema:            []types.KeySchemaElement{{AttributeName: aws.String("p"), KeyType: types.KeyTypeHash}},
		AttributeDefinitions: []types.AttributeDefinition{{AttributeName: aws.String("p"), AttributeType: partition}}}
	if sorted {
		in.KeySchema = append(in.KeySchema, types.KeySchemaElement{AttributeName: aws.String("s"), KeyType: types.KeyTypeRange})
		in.AttributeDefinitions = append(in.AttributeDefinitions, types.AttributeDefinition{AttributeName: aws.String("s"), AttributeType: "N"})
	}
	if _, err := c.CreateTable(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	w := dynamodb.NewTableExistsWaiter(c, func(o *dynamodb.TableExistsWaiterOptions) {
		o.MinDelay, o.MaxDelay = 5*time.Millisecond, 50*time.Millisecond
	})
	if err := w.Wait(t.Context(), &dynamodb.DescribeTableInput{TableName: &name}, time.Minute); err != nil {
		t.Fatal(err)
	}
}

func TestGetDynamoDB(t *testing.T) {
	url := "http://127.0.0.1:" + npm.Node(t, dynalite, regexp.MustCompile(`^port (\d+)$`))
	clean(t, map[string]string{"AWS_ENDPOINT_URL_DYNAMODB": url})
	l := open(t, time.Now)
	c := l.Table.(tables).c
	makeTable(t, c, "units", "S", false)
	makeTable(t, c, "readings", "N", true)
	type (
		text = types.AttributeValueMemberS
		num  = types.AttributeValueMemberN
	)
	put := func(table string, item map[string]types.AttributeValue) {
		if _, err := c.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: &table, Item: item}); err != nil {
			t.Fatal(err)
		}
	}
	put("units", map[string]types.AttributeValue{
		"p": &text{Value: "u1"}, "exact": &num{Value: "1234567890123456789012345678901234"}, "small": &num{Value: "-0.000123"},
		"bin": &types.AttributeValueMemberB{Value: []byte{0, 0xff}}, "yes": &types.AttributeValueMemberBOOL{Value: true}, "none": &types.AttributeValueMemberNULL{Value: true},
		"list": &types.AttributeValueMemberL{Value: []types.AttributeValue{&num{Value: "1"}, &types.AttributeValueMemberM{Value: map[string]types.AttributeValue{"a\"b": &text{Value: "é<\n"}}}}},
		"ss":   &types.AttributeValueMemberSS{Value: []string{"only"}}, "ns": &types.AttributeValueMemberNS{Value: []string{"2"}},
		"bs": &types.AttributeValueMemberBS{Value: [][]byte{{1}}},
	})
	put("units", map[string]types.AttributeValue{"p": &text{Value: "large"}, "x": &text{Value: strings.Repeat("x", 9000)}})
	put("readings", map[string]types.AttributeValue{"p": &num{Value: "7"}, "s": &num{Value: "8.5"}, "v": &text{Value: "found"}})
	for _, c := range []struct {
		expr, want string
		kind       errs.Kind // where want is empty
	}{
		{"get_dynamodb('units', 'p', id, 'role')", `{"v":{"bin":"AP8=","bs":["AQ=="],"exact":1234567890123456789012345678901234,` +
			`"list":[1,{"a\"b":"é<\n"}],"none":null,"ns":[2],"p":"u1","small":-0.000123,"ss":["only"],"yes":true}}`, 0},
		{"get_dynamodb('units', 'p', 'nobody', 'role')", "{}", 0},
		{"get_dynamodb('readings', 'p', 7, 's', 8.5, 'role').v", `{"v":"found"}`, 0},
		{"get_dynamodb('readings', 'p', 7, 's', 8, 'role').v", "{}", 0},
		{"get_dynamodb('nowhere', 'p', 'u1', 'role')", "", errs.Invalid},
		{"get_dynamodb('units', 'p', 7, 'role')", "", errs.Invalid},
		{"get_dynamodb('units', 'q', 'u1', 'role')", "", errs.Invalid},
		{"get_dynamodb('readings', 'p', 7, 'p', 8, 'role')", "", errs.Invalid},
		{"get_dynamodb('readings', 'p', 7, 'role')", "", errs.Invalid},
		{"get_dynamodb('units', 'p', '', 'role')", "", errs.Invalid},
		{"get_dynamodb('units', 'p', 'large', 'role')", "", errs.TooLarge},
	} {
		got, err := evaluate(t, l, c.expr, `{"id":"u1"}`)
		if got != c.want && c.want != "" || c.want == "" && errs.KindOf(err) != c.kind || (err == nil) != (c.want != "") {
			t.Errorf("%s: %s, %v (%v); want %s %v", c.expr, got, err, errs.KindOf(err), c.want, c.kind)
		}
	}
}

// A number leaves with all 38 digits that DynamoDB keeps.
func TestNumbersAreExact(t *testing.T) {
	for _, n := range []string{"12345678901234567890123456789012345678", "-0.00000000000000000000000000000000000012345678", "1E+125"} {
		if b, err := appendNumber(nil, n); err != nil || string(b) != n {
			t.Errorf("%s: %s, %v", n, b, err)
		}
	}
	for _, n := range []string{"", "+1", ".5", "1 ", " 1", "-", "0x1", "NaN", "1,2", "1}"} {
		if b, err := appendNumber(nil, n); err == nil {
			t.Errorf("%q: %s", n, b)
		}
	}
}

func FuzzItem(f *testing.F) {
	f.Add("a", "text", "1.5", []byte("bytes"))
	f.Add("\"\x00\xff", "\u2028\xed\xa0\x80", "1 ", []byte{})
	f.Add("", "", " 1", []byte(nil))
	f.Add("n", "", "-", []byte{0xff})
	f.Fuzz(func(t *testing.T, name, text, number string, data []byte) {
		n := &types.AttributeValueMemberN{Value: number}
		b, err := appendItem(nil, map[string]types.AttributeValue{name: &types.AttributeValueMemberL{Value: []types.AttributeValue{
			&types.AttributeValueMemberS{Value: text}, n, &types.AttributeValueMemberB{Value: data}, &types.AttributeValueMemberNS{Value: []string{number}}}}})
		if err != nil {
			var v json.Number
			if json.Unmarshal([]byte(number), &v) == nil && strings.TrimSpace(number) == number && number != "null" && !strings.HasPrefix(number, `"`) {
				t.Errorf("%q is a number: %v", number, err)
			}
			return
		}
		if v, ok := eval.ParseJSON(b, eval.V2016); !ok || v.Kind() != eval.Object || !json.Valid(b) {
			t.Errorf("%q is no JSON object", b)
		}
	})
}
