package e2e

import (
	"errors"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"github.com/weir-iot/weir/control/awsapi"
	"github.com/weir-iot/weir/test/weirtest"
)

// Every operation of the API models answers as docs/compatibility.md says: those
// that are not there by their name, with a status no client tries again, the
// others in some other way.
func TestAWSEveryOperation(t *testing.T) {
	w := weirtest.Start(t, weirtest.Durability("memory"))
	k := accessKey(t, w)
	document := string(ok(t, func() ([]byte, error) { return os.ReadFile("../../docs/compatibility.md") }))
	_, document, _ = strings.Cut(document, awsapi.ReferenceBegin)
	document, _, _ = strings.Cut(document, awsapi.ReferenceEnd)
	absent := map[string]bool{} // "service operation"
	for _, part := range strings.Split(document, "#### `")[1:] {
		service, _, _ := strings.Cut(part, "`")
		if _, list, found := strings.Cut(part, "\nNo: "); found {
			list, _, _ = strings.Cut(list, ".")
			for name := range strings.SplitSeq(list, ", ") {
				absent[service+" "+name] = true
			}
		}
	}
	signing := map[awsapi.Service]string{awsapi.IoT: "iot", awsapi.Data: "iotdata", awsapi.Jobs: "iot-jobs-data"}
	label := regexp.MustCompile(`\{[^}]*\}`)
	for _, op := range awsapi.Model() {
		status, answer := raw(t, w, k, signing[op.Service], op.Method, label.ReplaceAllString(op.Path, "x"), nil)
		name := string(op.Service) + " " + op.Name
		switch named := strings.HasPrefix(answer, "NotImplementedException ") && strings.Contains(answer, " operation "+op.Name+" "); {
		case absent[name] && (status != http.StatusNotImplemented || !named):
			t.Errorf("%s: %d %s", name, status, answer)
		case !absent[name] && named:
			t.Errorf("%s is said to be there: %s", name, answer)
		}
		delete(absent, name)
	}
	if len(absent) > 0 {
		t.Errorf("operations of no model: %v", absent)
	}
}

// A member that no model has is ignored, as AWS does, and logged.
func TestAWSUnknownMembers(t *testing.T) {
	log := &lines{}
	w := weirtest.Start(t, weirtest.Durability("memory"), weirtest.Log(slog.NewTextHandler(log, nil)))
	k := accessKey(t, w)
	if status, answer := raw(t, w, k, "iot", "POST", "/things/t?colour=red", []byte(`{"attributePayload":{"attributes":{"a":"1"},"Merge":true},"flavour":"x"}`)); status != 200 {
		t.Fatal(status, answer)
	}
	if n := log.take("members of a request are ignored", "operation=CreateThing", "colour", "attributePayload.Merge", "flavour"); n != 1 {
		t.Errorf("logged %d times", n)
	}
}

// To make again what is there as it is succeeds where AWS has it so; else the
// answer names what is there.
func TestAWSCreateTwice(t *testing.T) {
	w := weirtest.Start(t, weirtest.Durability("memory"))
	c := sdk(t, w, nil)
	ctx := t.Context()
	const document = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iot:*","Resource":"*"}]}`
	x, role := aws.String("x"), aws.String("arn:aws:iam::123456789012:role/r")
	for _, q := range []struct {
		what  string
		again bool // the same again succeeds
		id    string
		arn   string
		make  func(other bool) error
	}{
		{"thing", true, "", "thing/x", func(other bool) error {
			in := &iot.CreateThingInput{ThingName: x}
			if other {
				in.AttributePayload = &types.AttributePayload{Attributes: map[string]string{"a": "1"}}
			}
			_, err := c.CreateThing(ctx, in)
			return err
		}},
		{"thing type", true, "", "thingtype/x", func(other bool) error {
			in := &iot.CreateThingTypeInput{ThingTypeName: x}
			if other {
				in.ThingTypeProperties = &types.ThingTypeProperties{ThingTypeDescription: x}
			}
			_, err := c.CreateThingType(ctx, in)
			return err
		}},
		{"thing group", true, "", "thinggroup/x", func(other bool) error {
			in := &iot.CreateThingGroupInput{ThingGroupName: x}
			if other {
				in.ThingGroupProperties = &types.ThingGroupProperties{ThingGroupDescription: x}
			}
			_, err := c.CreateThingGroup(ctx, in)
			return err
		}},
		{"policy", false, "x", "policy/x", func(bool) error {
			_, err := c.CreatePolicy(ctx, &iot.CreatePolicyInput{PolicyName: x, PolicyDocument: aws.String(document)})
			return err
		}},
		{"role alias", false, "x", "rolealias/x", func(bool) error {
			_, err := c.CreateRoleAlias(ctx, &iot.CreateRoleAliasInput{RoleAlias: x, RoleArn: role})
			return err
		}},
		{"authorizer", false, "x", "authorizer/x", func(bool) error {
			_, err := c.CreateAuthorizer(ctx, &iot.CreateAuthorizerInput{AuthorizerName: x, AuthorizerFunctionArn: aws.String("arn:aws:lambda:us-east-1:123456789012:function:f"), SigningDisabled: aws.Bool(true)})
			return err
		}},
		{"topic rule", false, "x", "rule/x", func(bool) error {
			_, err := c.CreateTopicRule(ctx, &iot.CreateTopicRuleInput{RuleName: x, TopicRulePayload: &types.TopicRulePayload{Sql: aws.String("SELECT * FROM 'a'"),
				Actions: []types.Action{{Republish: &types.RepublishAction{RoleArn: role, Topic: x}}}}})
			return err
		}},
	} {
		if err := q.make(false); err != nil {
			t.Fatalf("%s: %v", q.what, err)
		}
		if err := q.make(false); (err == nil) != q.again {
			t.Errorf("the same %s again: %v", q.what, err)
		}
		var there *types.ResourceAlreadyExistsException
		if err := q.make(true); !errors.As(err, &there) {
			t.Errorf("another %s of the name: %v", q.what, err)
		} else if id := aws.ToString(there.ResourceId); aws.ToString(there.ResourceArn) != account+q.arn || id == "" || q.id != "" && id != q.id {
			t.Errorf("another %s of the name: %s %s", q.what, id, aws.ToString(there.ResourceArn))
		}
	}
}
