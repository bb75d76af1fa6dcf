package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/test/npm"
	"github.com/weir-iot/weir/test/weirtest"
)

// awsEnvironment makes the AWS environment of this process the one of set.
func awsEnvironment(t *testing.T, set map[string]string) {
	for _, kv := range os.Environ() {
		if k, v, _ := strings.Cut(kv, "="); strings.HasPrefix(k, "AWS_") {
			t.Setenv(k, v)
			os.Unsetenv(k)
		}
	}
	none := filepath.Join(t.TempDir(), "none")
	t.Setenv("AWS_CONFIG_FILE", none)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", none)
	for k, v := range set {
		t.Setenv(k, v)
	}
}

// units is a DynamoDB with a table of units; the key is id.
func units(t *testing.T, items ...map[string]types.AttributeValue) (url string) {
	url = "http://127.0.0.1:" + npm.Node(t, `
const server = require("dynalite")({createTableMs: 0});
server.listen(0, "127.0.0.1", () => console.log("port " + server.address().port));
`, regexp.MustCompile(`^port (\d+)$`))
	c := dynamodb.New(dynamodb.Options{Region: "us-east-1", BaseEndpoint: &url, Credentials: credentials.NewStaticCredentialsProvider("a", "b", "")})
	name := "units"
	if _, err := c.CreateTable(t.Context(), &dynamodb.CreateTableInput{TableName: &name, BillingMode: types.BillingModePayPerRequest,
		KeySchema:            []types.KeySchemaElement{{AttributeName: aws.String("id"), KeyType: types.KeyTypeHash}},
		AttributeDefinitions: []types.AttributeDefinition{{AttributeName: aws.String("id"), AttributeType: "S"}}}); err != nil {
		t.Fatal(err)
	}
	w := dynamodb.NewTableExistsWaiter(c, func(o *dynamodb.TableExistsWaiterOptions) {
		o.MinDelay, o.MaxDelay = 5*time.Millisecond, 50*time.Millisecond
	})
	if err := w.Wait(t.Context(), &dynamodb.DescribeTableInput{TableName: &name}, time.Minute); err != nil {
		t.Fatal(err)
	}
	for _, item := range items {
		if _, err := c.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: &name, Item: item}); err != nil {
			t.Fatal(err)
		}
	}
	return url
}

const rule = `
ruleName: %s
sql: >-
  %s
awsIotSqlVersion: '2016-03-23'
actions:
  - republish:
      roleArn: arn:aws:iam::123456789012:role/r
      topic: out/%[1]s
      qos: 1
`

func TestLookups(t *testing.T) {
	awsEnvironment(t, map[string]string{"AWS_ENDPOINT_URL_DYNAMODB": units(t,
		map[string]types.AttributeValue{"id": &types.AttributeValueMemberS{Value: "u1"}, "floor": &types.AttributeValueMemberN{Value: "3"}})})
	w := weirtest.Start(t)

	// The descriptor goes where weir dev keeps the objects of its own S3.
	set, err := proto.Marshal(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{protodesc.ToFileDescriptorProto(durationpb.File_google_protobuf_duration_proto)}})
	if err != nil {
		t.Fatal(err)
	}
	w.Apply(`
ruleName: upload
sql: SELECT * FROM 'upload/#'
actions:
  - s3:
      roleArn: arn:aws:iam::123456789012:role/r
      bucketName: descriptors
      key: duration.desc
`)
	w.MustPublish("upload/x", string(set))
	if a := w.Account("upload"); a.Delivered != 1 {
		t.Fatalf("%+v", a)
	}

	w.Apply(fmt.Sprintf(rule, "item", "SELECT id, get_dynamodb('units', 'id', id, 'arn:aws:iam::123456789012:role/r').floor AS floor FROM 'in/item'"))
	w.Apply(fmt.Sprintf(rule, "proto", "SELECT decode(*, 'proto', 'descriptors', 'duration.desc', 'google/protobuf/duration.proto', 'Duration') AS took FROM 'in/proto'"))
	sub := w.Subscribe("out/#")
	w.MustPublish("in/item", `{"id":"u1"}`)
	if m := sub.Next(); m.Topic != "out/item" || string(m.Payload) != `{"id":"u1","floor":3}` {
		t.Errorf("%s %s", m.Topic, m.Payload)
	}
	w.MustPublish("in/item", `{"id":"u2"}`)
	if m := sub.Next(); string(m.Payload) != `{"id":"u2"}` {
		t.Errorf("an item that does not exist: %s", m.Payload)
	}
	message, err := proto.Marshal(durationpb.New(90 * time.Second))
	if err != nil {
		t.Fatal(err)
	}
	w.MustPublish("in/proto", string(message))
	if m := sub.Next(); m.Topic != "out/proto" || string(m.Payload) != `{"took":"90s"}` {
		t.Errorf("%s %s", m.Topic, m.Payload)
	}

	for call, want := range map[string]string{
		"get_secret('s', 'SecretString', 'role')": "AWS_ENDPOINT_URL_SECRETS_MANAGER",
	} {
		_, err := w.API().Apply(t.Context(), "rule.yaml", []byte(fmt.Sprintf(rule, "refused", "SELECT "+call+" AS v FROM 'in/refused'")), false)
		var r *control.RemoteError
		if !errors.As(err, &r) || !strings.Contains(r.Detail(), want) {
			t.Errorf("%s: %v, want a refusal with %q", call, err, want)
		}
	}
}

// A rule adds to a message what the registry knows of its device.
func TestRegistryInRules(t *testing.T) {
	w := weirtest.Start(t)
	for _, line := range []string{"type create pump", "thing create pump-7 --type pump --attribute site=north", "group create pumps", "group add pumps pump-7"} {
		if _, stderr, code := weirtest.Run(t, "", []string{"WEIR_DATA_DIR=" + w.Dir()}, strings.Fields(line)...); code != 0 {
			t.Fatalf("%s: %s", line, stderr)
		}
	}
	w.Apply(fmt.Sprintf(rule, "who", "SELECT get_registry_data('DescribeThing', topic(2), 'arn:aws:iam::123456789012:role/r') AS thing, "+
		"get(get_registry_data('ListThingGroupsForThing', topic(2), 'arn:aws:iam::123456789012:role/r').thingGroups, 0).groupName AS fleet FROM 'who/+'"))
	sub := w.Subscribe("out/#")
	w.MustPublish("who/pump-7", "{}")
	var got struct {
		Thing struct {
			ThingName, ThingTypeName, ThingARN string
			Attributes                         map[string]string
			Version                            int
		}
		Fleet string
	}
	m := sub.Next()
	if err := json.Unmarshal(m.Payload, &got); err != nil || got.Fleet != "pumps" || got.Thing.ThingName != "pump-7" || got.Thing.ThingTypeName != "pump" ||
		got.Thing.ThingARN != "arn:aws:iot:us-east-1:123456789012:thing/pump-7" || got.Thing.Attributes["site"] != "north" || got.Thing.Version != 1 {
		t.Errorf("%s: %v", m.Payload, err)
	}
	for _, nobody := range []string{"pump-8", "no thing's name"} {
		w.MustPublish("who/"+nobody, "{}")
		if m := sub.Next(); string(m.Payload) != "{}" {
			t.Errorf("%s: %s", nobody, m.Payload)
		}
	}
}
