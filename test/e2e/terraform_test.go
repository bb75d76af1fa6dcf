package e2e

import (
	"errors"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
	"github.com/aws/smithy-go"

	"github.com/weir-iot/weir/test/weirtest"
)

// tf has the AWS SDK for Go's client, with which the Terraform provider makes
// its calls, and reads every result.
type tf struct {
	t *testing.T
	c *iot.Client
}

func ok[T any](t testing.TB, f func() (T, error)) T {
	t.Helper()
	v, err := f()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// gone fails the test unless f's answer is what the provider takes for "not
// there".
func gone[T any](t testing.TB, f func() (T, error)) {
	t.Helper()
	_, err := f()
	if missing := (*types.ResourceNotFoundException)(nil); !errors.As(err, &missing) {
		t.Errorf("after it was deleted: %v", err)
	}
}

// tagged sets tags, reads and takes them away, as the provider does with every
// resource that has an ARN.
func (f tf) tagged(arn *string, created map[string]string) {
	f.t.Helper()
	ctx := f.t.Context()
	read := func() map[string]string {
		f.t.Helper()
		out := ok(f.t, func() (*iot.ListTagsForResourceOutput, error) {
			return f.c.ListTagsForResource(ctx, &iot.ListTagsForResourceInput{ResourceArn: arn})
		})
		tags := map[string]string{}
		for _, t := range out.Tags {
			tags[aws.ToString(t.Key)] = aws.ToString(t.Value)
		}
		return tags
	}
	if got := read(); quote(got) != quote(created) {
		f.t.Errorf("%s was made with tags %v, has %v", *arn, created, got)
	}
	ok(f.t, func() (*iot.TagResourceOutput, error) {
		return f.c.TagResource(ctx, &iot.TagResourceInput{ResourceArn: arn, Tags: []types.Tag{{Key: aws.String("env"), Value: aws.String("b")}, {Key: aws.String("more"), Value: aws.String("x")}}})
	})
	if got := read(); got["env"] != "b" || got["more"] != "x" {
		f.t.Errorf("%s: tags %v", *arn, got)
	}
	ok(f.t, func() (*iot.UntagResourceOutput, error) {
		return f.c.UntagResource(ctx, &iot.UntagResourceInput{ResourceArn: arn, TagKeys: []string{"env", "more", "team"}})
	})
	if got := read(); len(got) != 0 {
		f.t.Errorf("%s: tags %v after all were taken away", *arn, got)
	}
}

// What the resources of the Terraform AWS provider do, call by call: create,
// read after write, tags, update, read, delete, and find that it is gone.
func TestTerraformResources(t *testing.T) {
	w := weirtest.Start(t, weirtest.Durability("memory"), weirtest.Key("limits", "relaxed"))
	c := sdk(t, w, nil)
	f := tf{t, c}
	ctx := t.Context()
	tags := []types.Tag{{Key: aws.String("env"), Value: aws.String("a")}, {Key: aws.String("team"), Value: aws.String("w x")}}
	given := map[string]string{"env": "a", "team": "w x"}
	const document = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iot:*","Resource":"*"}]}`

	thing, typ, group, policy := aws.String("tf-thing"), aws.String("tf-type"), aws.String("tf-group"), aws.String("tf-policy")

	// aws_iot_thing_type
	madeType := ok(t, func() (*iot.CreateThingTypeOutput, error) {
		return c.CreateThingType(ctx, &iot.CreateThingTypeInput{ThingTypeName: typ, Tags: tags, ThingTypeProperties: &types.ThingTypeProperties{ThingTypeDescription: aws.String("d"), SearchableAttributes: []string{"a"}}})
	})
	f.tagged(madeType.ThingTypeArn, given)
	describeType := func() (*iot.DescribeThingTypeOutput, error) {
		return c.DescribeThingType(ctx, &iot.DescribeThingTypeInput{ThingTypeName: typ})
	}
	if v := ok(t, describeType); aws.ToString(v.ThingTypeArn) != account+"thingtype/tf-type" || v.ThingTypeMetadata.Deprecated || aws.ToString(v.ThingTypeProperties.ThingTypeDescription) != "d" {
		t.Errorf("%+v", v)
	}

	// aws_iot_thing
	madeThing := ok(t, func() (*iot.CreateThingOutput, error) {
		return c.CreateThing(ctx, &iot.CreateThingInput{ThingName: thing, ThingTypeName: typ, AttributePayload: &types.AttributePayload{Attributes: map[string]string{"a": "1"}}})
	})
	describeThing := func() (*iot.DescribeThingOutput, error) {
		return c.DescribeThing(ctx, &iot.DescribeThingInput{ThingName: thing})
	}
	if v := ok(t, describeThing); aws.ToString(v.ThingArn) != aws.ToString(madeThing.ThingArn) || aws.ToString(v.DefaultClientId) != "tf-thing" || v.Version != 1 || v.Attributes["a"] != "1" || aws.ToString(v.ThingTypeName) != "tf-type" {
		t.Errorf("%+v", v)
	}
	ok(t, func() (*iot.UpdateThingOutput, error) {
		return c.UpdateThing(ctx, &iot.UpdateThingInput{ThingName: thing, RemoveThingType: true, AttributePayload: &types.AttributePayload{Attributes: map[string]string{"b": "2"}}})
	})
	if v := ok(t, describeThing); v.Version != 2 || len(v.Attributes) != 1 || v.Attributes["b"] != "2" || v.ThingTypeName != nil {
		t.Errorf("%+v", v)
	}

	// aws_iot_thing_group, aws_iot_thing_group_membership
	madeGroup := ok(t, func() (*iot.CreateThingGroupOutput, error) {
		return c.CreateThingGroup(ctx, &iot.CreateThingGroupInput{ThingGroupName: group, Tags: tags, ThingGroupProperties: &types.ThingGroupProperties{ThingGroupDescription: aws.String("d")}})
	})
	f.tagged(madeGroup.ThingGroupArn, given)
	describeGroup := func() (*iot.DescribeThingGroupOutput, error) {
		return c.DescribeThingGroup(ctx, &iot.DescribeThingGroupInput{ThingGroupName: group})
	}
	v := ok(t, describeGroup)
	ok(t, func() (*iot.UpdateThingGroupOutput, error) {
		return c.UpdateThingGroup(ctx, &iot.UpdateThingGroupInput{ThingGroupName: group, ExpectedVersion: aws.Int64(v.Version), ThingGroupProperties: &types.ThingGroupProperties{
			ThingGroupDescription: aws.String("e"), AttributePayload: &types.AttributePayload{Attributes: map[string]string{"a": "1"}}}})
	})
	if v := ok(t, describeGroup); v.Version != 2 || aws.ToString(v.ThingGroupProperties.ThingGroupDescription) != "e" || v.ThingGroupProperties.AttributePayload.Attributes["a"] != "1" || v.ThingGroupMetadata.CreationDate == nil {
		t.Errorf("%+v", v)
	}
	ok(t, func() (*iot.AddThingToThingGroupOutput, error) {
		return c.AddThingToThingGroup(ctx, &iot.AddThingToThingGroupInput{ThingName: thing, ThingGroupName: group, OverrideDynamicGroups: true})
	})
	groups := func() int {
		t.Helper()
		return len(ok(t, func() (*iot.ListThingGroupsForThingOutput, error) {
			return c.ListThingGroupsForThing(ctx, &iot.ListThingGroupsForThingInput{ThingName: thing})
		}).ThingGroups)
	}
	if n := groups(); n != 1 {
		t.Errorf("%d groups", n)
	}
	ok(t, func() (*iot.RemoveThingFromThingGroupOutput, error) {
		return c.RemoveThingFromThingGroup(ctx, &iot.RemoveThingFromThingGroupInput{ThingName: thing, ThingGroupName: group})
	})
	if n := groups(); n != 0 {
		t.Errorf("%d groups", n)
	}

	// aws_iot_certificate, aws_iot_policy
	cert := ok(t, func() (*iot.CreateKeysAndCertificateOutput, error) {
		return c.CreateKeysAndCertificate(ctx, &iot.CreateKeysAndCertificateInput{SetAsActive: true})
	})
	describeCert := func() (*iot.DescribeCertificateOutput, error) {
		return c.DescribeCertificate(ctx, &iot.DescribeCertificateInput{CertificateId: cert.CertificateId})
	}
	if v := ok(t, describeCert).CertificateDescription; v.Status != types.CertificateStatusActive || aws.ToString(v.CertificatePem) != aws.ToString(cert.CertificatePem) || aws.ToString(v.CertificateArn) != aws.ToString(cert.CertificateArn) {
		t.Errorf("%+v", v)
	}
	madePolicy := ok(t, func() (*iot.CreatePolicyOutput, error) {
		return c.CreatePolicy(ctx, &iot.CreatePolicyInput{PolicyName: policy, PolicyDocument: aws.String(document), Tags: tags})
	})
	f.tagged(madePolicy.PolicyArn, given)
	getPolicy := func() (*iot.GetPolicyOutput, error) {
		return c.GetPolicy(ctx, &iot.GetPolicyInput{PolicyName: policy})
	}
	for range 7 { // each update is a version; the oldest makes room
		next := &iot.CreatePolicyVersionInput{PolicyName: policy, PolicyDocument: aws.String(strings.Replace(document, "iot:*", "iot:Connect", 1)), SetAsDefault: true}
		_, err := c.CreatePolicyVersion(ctx, next)
		var full *types.VersionsLimitExceededException
		if errors.As(err, &full) {
			list := ok(t, func() (*iot.ListPolicyVersionsOutput, error) {
				return c.ListPolicyVersions(ctx, &iot.ListPolicyVersionsInput{PolicyName: policy})
			}).PolicyVersions
			oldest := list[0]
			for _, v := range list {
				if !v.IsDefaultVersion && (oldest.IsDefaultVersion || v.CreateDate.Before(*oldest.CreateDate)) {
					oldest = v
				}
			}
			ok(t, func() (*iot.DeletePolicyVersionOutput, error) {
				return c.DeletePolicyVersion(ctx, &iot.DeletePolicyVersionInput{PolicyName: policy, PolicyVersionId: oldest.VersionId})
			})
			_, err = c.CreatePolicyVersion(ctx, next)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if v := ok(t, getPolicy); aws.ToString(v.DefaultVersionId) != "8" || !strings.Contains(aws.ToString(v.PolicyDocument), "iot:Connect") {
		t.Errorf("%+v", v)
	}

	// aws_iot_policy_attachment, aws_iot_thing_principal_attachment
	ok(t, func() (*iot.AttachPolicyOutput, error) {
		return c.AttachPolicy(ctx, &iot.AttachPolicyInput{PolicyName: policy, Target: cert.CertificateArn})
	})
	var attached []string
	for p := iot.NewListAttachedPoliciesPaginator(c, &iot.ListAttachedPoliciesInput{Target: cert.CertificateArn, PageSize: aws.Int32(250)}); p.HasMorePages(); {
		for _, v := range ok(t, func() (*iot.ListAttachedPoliciesOutput, error) { return p.NextPage(ctx) }).Policies {
			attached = append(attached, aws.ToString(v.PolicyName))
		}
	}
	if quote(attached) != `["tf-policy"]` {
		t.Errorf("%v", attached)
	}
	ok(t, func() (*iot.AttachThingPrincipalOutput, error) {
		return c.AttachThingPrincipal(ctx, &iot.AttachThingPrincipalInput{ThingName: thing, Principal: cert.CertificateArn})
	})
	if l := ok(t, func() (*iot.ListThingPrincipalsOutput, error) {
		return c.ListThingPrincipals(ctx, &iot.ListThingPrincipalsInput{ThingName: thing})
	}).Principals; quote(l) != quote([]string{*cert.CertificateArn}) {
		t.Errorf("%v", l)
	}

	// aws_iot_role_alias
	role := aws.String("arn:aws:iam::123456789012:role/r")
	madeAlias := ok(t, func() (*iot.CreateRoleAliasOutput, error) {
		return c.CreateRoleAlias(ctx, &iot.CreateRoleAliasInput{RoleAlias: aws.String("tf-alias"), RoleArn: role, CredentialDurationSeconds: aws.Int32(3600), Tags: tags})
	})
	f.tagged(madeAlias.RoleAliasArn, given)
	ok(t, func() (*iot.UpdateRoleAliasOutput, error) {
		return c.UpdateRoleAlias(ctx, &iot.UpdateRoleAliasInput{RoleAlias: aws.String("tf-alias"), RoleArn: role, CredentialDurationSeconds: aws.Int32(1800)})
	})
	describeAlias := func() (*iot.DescribeRoleAliasOutput, error) {
		return c.DescribeRoleAlias(ctx, &iot.DescribeRoleAliasInput{RoleAlias: aws.String("tf-alias")})
	}
	if v := ok(t, describeAlias).RoleAliasDescription; aws.ToInt32(v.CredentialDurationSeconds) != 1800 {
		t.Errorf("%+v", v)
	}

	// aws_iot_authorizer
	authorizer := aws.String("tf-authorizer")
	madeAuthorizer := ok(t, func() (*iot.CreateAuthorizerOutput, error) {
		return c.CreateAuthorizer(ctx, &iot.CreateAuthorizerInput{AuthorizerName: authorizer, AuthorizerFunctionArn: aws.String("arn:aws:lambda:us-east-1:123456789012:function:f"), SigningDisabled: aws.Bool(true), Status: types.AuthorizerStatusActive, Tags: tags})
	})
	f.tagged(madeAuthorizer.AuthorizerArn, given)
	describeAuthorizer := func() (*iot.DescribeAuthorizerOutput, error) {
		return c.DescribeAuthorizer(ctx, &iot.DescribeAuthorizerInput{AuthorizerName: authorizer})
	}
	ok(t, func() (*iot.UpdateAuthorizerOutput, error) {
		return c.UpdateAuthorizer(ctx, &iot.UpdateAuthorizerInput{AuthorizerName: authorizer, Status: types.AuthorizerStatusInactive, EnableCachingForHttp: aws.Bool(true)})
	})
	if v := ok(t, describeAuthorizer).AuthorizerDescription; v.Status != types.AuthorizerStatusInactive || !aws.ToBool(v.EnableCachingForHttp) {
		t.Errorf("%+v", v)
	}

	// aws_iot_topic_rule: tags go in a header, and a rule is looked for in the list.
	rule := aws.String("tf_rule")
	payload := func(sql string) *types.TopicRulePayload {
		return &types.TopicRulePayload{Sql: aws.String(sql), AwsIotSqlVersion: aws.String("2016-03-23"), RuleDisabled: aws.Bool(false), Description: aws.String("d"),
			Actions: []types.Action{{Republish: &types.RepublishAction{RoleArn: role, Topic: aws.String("out"), Qos: aws.Int32(0)}}}}
	}
	ok(t, func() (*iot.CreateTopicRuleOutput, error) {
		return c.CreateTopicRule(ctx, &iot.CreateTopicRuleInput{RuleName: rule, Tags: aws.String("env=a&team=w%20x"), TopicRulePayload: payload("SELECT * FROM 'a'")})
	})
	listed := func() bool {
		for p := iot.NewListTopicRulesPaginator(c, &iot.ListTopicRulesInput{}); p.HasMorePages(); {
			for _, r := range ok(t, func() (*iot.ListTopicRulesOutput, error) { return p.NextPage(ctx) }).Rules {
				if aws.ToString(r.RuleName) == *rule {
					return true
				}
			}
		}
		return false
	}
	if !listed() {
		t.Error("a rule that was made is not in the list")
	}
	getRule := func() (*iot.GetTopicRuleOutput, error) {
		return c.GetTopicRule(ctx, &iot.GetTopicRuleInput{RuleName: rule})
	}
	arn := ok(t, getRule).RuleArn
	f.tagged(arn, given)
	if _, err := c.CreateTopicRule(ctx, &iot.CreateTopicRuleInput{RuleName: aws.String("bad_tags"), Tags: aws.String("aws:x=1"), TopicRulePayload: payload("SELECT * FROM 'a'")}); err == nil {
		t.Error("a reserved tag is taken")
	}
	ok(t, func() (*iot.ReplaceTopicRuleOutput, error) {
		return c.ReplaceTopicRule(ctx, &iot.ReplaceTopicRuleInput{RuleName: rule, TopicRulePayload: payload("SELECT * FROM 'b'")})
	})
	if v := ok(t, getRule).Rule; aws.ToString(v.Sql) != "SELECT * FROM 'b'" || len(v.Actions) != 1 || aws.ToString(v.Actions[0].Republish.Topic) != "out" {
		t.Errorf("%+v", v)
	}

	// aws_iot_indexing_configuration, aws_iot_logging_options, data.aws_iot_endpoint
	ok(t, func() (*iot.UpdateIndexingConfigurationOutput, error) {
		return c.UpdateIndexingConfiguration(ctx, &iot.UpdateIndexingConfigurationInput{ThingIndexingConfiguration: &types.ThingIndexingConfiguration{
			ThingIndexingMode: types.ThingIndexingModeRegistry, ThingConnectivityIndexingMode: types.ThingConnectivityIndexingModeOff,
			DeviceDefenderIndexingMode: types.DeviceDefenderIndexingModeOff, NamedShadowIndexingMode: types.NamedShadowIndexingModeOff}})
	})
	if v := ok(t, func() (*iot.GetIndexingConfigurationOutput, error) {
		return c.GetIndexingConfiguration(ctx, &iot.GetIndexingConfigurationInput{})
	}); v.ThingIndexingConfiguration.ThingIndexingMode != types.ThingIndexingModeRegistry {
		t.Errorf("%+v", v.ThingIndexingConfiguration)
	}
	ok(t, func() (*iot.SetV2LoggingOptionsOutput, error) {
		return c.SetV2LoggingOptions(ctx, &iot.SetV2LoggingOptionsInput{RoleArn: role, DefaultLogLevel: types.LogLevelWarn})
	})
	if v := ok(t, func() (*iot.GetV2LoggingOptionsOutput, error) {
		return c.GetV2LoggingOptions(ctx, &iot.GetV2LoggingOptionsInput{})
	}); v.DefaultLogLevel != types.LogLevelWarn {
		t.Errorf("%+v", v)
	}
	for _, kind := range []string{"iot:Data", "iot:Data-ATS", "iot:Jobs", "iot:CredentialProvider"} {
		if v := ok(t, func() (*iot.DescribeEndpointOutput, error) {
			return c.DescribeEndpoint(ctx, &iot.DescribeEndpointInput{EndpointType: &kind})
		}); !strings.Contains(aws.ToString(v.EndpointAddress), ":") {
			t.Errorf("%s: %s", kind, aws.ToString(v.EndpointAddress))
		}
	}

	// And away with all of it, what others stand on last.
	var api smithy.APIError
	if _, err := c.DeleteThing(ctx, &iot.DeleteThingInput{ThingName: thing}); !errors.As(err, &api) || api.ErrorCode() != "InvalidRequestException" {
		t.Errorf("a thing with a certificate: %v", err)
	}
	ok(t, func() (*iot.DetachThingPrincipalOutput, error) {
		return c.DetachThingPrincipal(ctx, &iot.DetachThingPrincipalInput{ThingName: thing, Principal: cert.CertificateArn})
	})
	ok(t, func() (*iot.DeleteThingOutput, error) {
		return c.DeleteThing(ctx, &iot.DeleteThingInput{ThingName: thing})
	})
	gone(t, describeThing)
	ok(t, func() (*iot.DetachPolicyOutput, error) {
		return c.DetachPolicy(ctx, &iot.DetachPolicyInput{PolicyName: policy, Target: cert.CertificateArn})
	})
	if _, err := c.DeletePolicy(ctx, &iot.DeletePolicyInput{PolicyName: policy}); !errors.As(err, new(*types.DeleteConflictException)) {
		t.Errorf("a policy with versions: %v", err)
	}
	for _, v := range ok(t, func() (*iot.ListPolicyVersionsOutput, error) {
		return c.ListPolicyVersions(ctx, &iot.ListPolicyVersionsInput{PolicyName: policy})
	}).PolicyVersions {
		if !v.IsDefaultVersion {
			ok(t, func() (*iot.DeletePolicyVersionOutput, error) {
				return c.DeletePolicyVersion(ctx, &iot.DeletePolicyVersionInput{PolicyName: policy, PolicyVersionId: v.VersionId})
			})
		}
	}
	ok(t, func() (*iot.DeletePolicyOutput, error) {
		return c.DeletePolicy(ctx, &iot.DeletePolicyInput{PolicyName: policy})
	})
	gone(t, getPolicy)
	ok(t, func() (*iot.UpdateCertificateOutput, error) {
		return c.UpdateCertificate(ctx, &iot.UpdateCertificateInput{CertificateId: cert.CertificateId, NewStatus: types.CertificateStatusInactive})
	})
	ok(t, func() (*iot.DeleteCertificateOutput, error) {
		return c.DeleteCertificate(ctx, &iot.DeleteCertificateInput{CertificateId: cert.CertificateId})
	})
	gone(t, describeCert)
	ok(t, func() (*iot.DeleteThingGroupOutput, error) {
		return c.DeleteThingGroup(ctx, &iot.DeleteThingGroupInput{ThingGroupName: group})
	})
	gone(t, describeGroup)
	ok(t, func() (*iot.DeprecateThingTypeOutput, error) {
		return c.DeprecateThingType(ctx, &iot.DeprecateThingTypeInput{ThingTypeName: typ})
	})
	ok(t, func() (*iot.DeleteThingTypeOutput, error) {
		return c.DeleteThingType(ctx, &iot.DeleteThingTypeInput{ThingTypeName: typ})
	})
	gone(t, describeType)
	ok(t, func() (*iot.DeleteRoleAliasOutput, error) {
		return c.DeleteRoleAlias(ctx, &iot.DeleteRoleAliasInput{RoleAlias: aws.String("tf-alias")})
	})
	gone(t, describeAlias)
	ok(t, func() (*iot.DeleteAuthorizerOutput, error) {
		return c.DeleteAuthorizer(ctx, &iot.DeleteAuthorizerInput{AuthorizerName: authorizer})
	})
	gone(t, describeAuthorizer)
	ok(t, func() (*iot.DeleteTopicRuleOutput, error) {
		return c.DeleteTopicRule(ctx, &iot.DeleteTopicRuleInput{RuleName: rule})
	})
	if listed() {
		t.Error("a rule that was deleted is in the list")
	}
	if _, err := getRule(); !errors.As(err, new(*types.UnauthorizedException)) || !strings.Contains(err.Error(), "Access to topic rule 'tf_rule' was denied") {
		t.Errorf("a rule that was deleted: %v", err)
	}
	gone(t, func() (*iot.ListTagsForResourceOutput, error) {
		return c.ListTagsForResource(ctx, &iot.ListTagsForResourceInput{ResourceArn: arn})
	})
	// Made again, it has none of the old tags.
	ok(t, func() (*iot.CreateTopicRuleOutput, error) {
		return c.CreateTopicRule(ctx, &iot.CreateTopicRuleInput{RuleName: rule, TopicRulePayload: payload("SELECT * FROM 'a'")})
	})
	f.tagged(arn, map[string]string{})
}
