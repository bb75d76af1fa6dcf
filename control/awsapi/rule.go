package awsapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/topic"
	"github.com/weir-iot/weir/rules"
	"github.com/weir-iot/weir/rules/sql"
)

// Rules is the rule store. A change has returned once the engine runs it, or
// does not any more. Errors: errs.Invalid (a *sql.Error in it where the
// statement is wrong), NotFound, Exists, Conflict, Unavailable.
type Rules interface {
	Create(ctx context.Context, r *rules.Rule) error
	Replace(ctx context.Context, r *rules.Rule) error
	Rule(ctx context.Context, name string) (*rules.Stored, error)
	All(ctx context.Context) ([]rules.Stored, error) // sorted by name
	SetEnabled(ctx context.Context, name string, enabled bool) error
	Delete(ctx context.Context, name string) error
}

func ruleOperations() []operation {
	const rule = "rule/{ruleName}"
	return []operation{
		op(IoT, "CreateTopicRule", rule, (*API).createTopicRule, partly("the actions Weir has")),
		op(IoT, "GetTopicRule", rule, (*API).getTopicRule),
		op(IoT, "ListTopicRules", "*", (*API).listTopicRules),
		op(IoT, "ReplaceTopicRule", rule, (*API).replaceTopicRule, partly("the actions Weir has")),
		op(IoT, "DeleteTopicRule", rule, (*API).deleteTopicRule),
		op(IoT, "EnableTopicRule", rule, (*API).enableTopicRule),
		op(IoT, "DisableTopicRule", rule, (*API).disableTopicRule),
	}
}

type createTopicRuleRequest struct {
	RuleName         string            `json:"ruleName" in:"uri" is:"required 1..128 ~rule"`
	TopicRulePayload *topicRulePayload `json:"topicRulePayload" in:"payload" is:"required"`
	Tags             string            `json:"x-amz-tagging" in:"header"`
}

// topicRulePayload is a rule document without its name. What an action's object
// must be is the action's own matter.
type topicRulePayload struct {
	SQL              string            `json:"sql" is:"required"`
	Description      string            `json:"description"`
	Actions          []json.RawMessage `json:"actions" is:"required 0..10"`
	RuleDisabled     *bool             `json:"ruleDisabled"`
	AwsIotSQLVersion string            `json:"awsIotSqlVersion"`
	ErrorAction      json.RawMessage   `json:"errorAction"`
}

// rule returns the document as the rules have it.
func (p *topicRulePayload) rule(name string) (*rules.Rule, error) {
	r := &rules.Rule{Name: name, SQL: p.SQL, Description: p.Description, SQLVersion: p.AwsIotSQLVersion, Actions: []rules.Action{}}
	r.Disabled = p.RuleDisabled != nil && *p.RuleDisabled
	for i, raw := range p.Actions {
		var a rules.Action
		if err := json.Unmarshal(raw, &a); err != nil {
			return nil, invalid("actions.%d.member: %s", i+1, clip(err.Error()))
		}
		r.Actions = append(r.Actions, a)
	}
	if len(p.ErrorAction) > 0 && string(p.ErrorAction) != "{}" {
		r.ErrorAction = &rules.Action{}
		if err := json.Unmarshal(p.ErrorAction, r.ErrorAction); err != nil {
			return nil, invalid("errorAction: %s", clip(err.Error()))
		}
	}
	return r, nil
}

func (a *API) ruleARN(name string) string { return a.arn + "rule/" + name }

// ruleError makes a mistake in a statement an SqlParseException, with its
// place.
func (a *API) ruleError(name string, err error) error {
	var se *sql.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &se):
		message := se.Error()
		if se.Hint != "" {
			message += " (" + se.Hint + ")"
		}
		return &Error{Code: "SqlParseException", Message: message, Err: err}
	case errs.Is(err, errs.Exists):
		return &Error{Code: "ResourceAlreadyExistsException", Message: "Rule " + name + " already exists",
			ResourceID: name, ResourceARN: a.ruleARN(name), Err: err}
	case errs.Is(err, errs.NotFound):
		// Source: what AWS answers, and clients look for; its models have no
		// ResourceNotFoundException for rules.
		return &Error{Code: "UnauthorizedException", Message: "Access to topic rule '" + name + "' was denied: there is no such rule", Err: err}
	}
	return err
}

func (a *API) createTopicRule(ctx context.Context, q *createTopicRuleRequest) (*none, error) {
	r, err := q.TopicRulePayload.rule(q.RuleName)
	if err != nil {
		return nil, err
	}
	tags, err := taggingOf(q.Tags)
	if err != nil {
		return nil, err
	}
	if err := a.o.Registry.CheckTags(tags); err != nil {
		return nil, err
	}
	if err := a.o.Rules.Create(ctx, r); err != nil {
		return nil, a.ruleError(q.RuleName, err)
	}
	return &none{}, a.o.Registry.SetRuleTags(ctx, q.RuleName, tags)
}

// taggingOf reads tags as the header x-amz-tagging has them: URL encoded pairs.
func taggingOf(header string) (map[string]string, error) {
	values, err := url.ParseQuery(header)
	if err != nil {
		return nil, invalid("x-amz-tagging is not URL encoded")
	}
	list := make([]tag, 0, len(values))
	for k, v := range values {
		for _, text := range v {
			list = append(list, tag{k, text})
		}
	}
	return tagsOf(list)
}

type replaceTopicRuleRequest struct {
	RuleName         string            `json:"ruleName" in:"uri" is:"required 1..128 ~rule"`
	TopicRulePayload *topicRulePayload `json:"topicRulePayload" in:"payload" is:"required"`
}

func (a *API) replaceTopicRule(ctx context.Context, q *replaceTopicRuleRequest) (*none, error) {
	r, err := q.TopicRulePayload.rule(q.RuleName)
	if err != nil {
		return nil, err
	}
	return &none{}, a.ruleError(q.RuleName, a.o.Rules.Replace(ctx, r))
}

type ruleNameRequest struct {
	RuleName string `json:"ruleName" in:"uri" is:"required 1..128 ~rule"`
}

type getTopicRuleResponse struct {
	RuleARN string    `json:"ruleArn"`
	Rule    topicRule `json:"rule"`
}

type topicRule struct {
	RuleName         string         `json:"ruleName"`
	SQL              string         `json:"sql"`
	Description      string         `json:"description,omitempty"`
	CreatedAt        Time           `json:"createdAt"`
	Actions          []rules.Action `json:"actions"`
	RuleDisabled     bool           `json:"ruleDisabled"`
	AwsIotSQLVersion string         `json:"awsIotSqlVersion"`
	ErrorAction      *rules.Action  `json:"errorAction,omitempty"`
}

// defaultSQLVersion is the one of a rule that names none.
const defaultSQLVersion = "2015-10-08"

func (a *API) getTopicRule(ctx context.Context, q *ruleNameRequest) (*getTopicRuleResponse, error) {
	st, err := a.o.Rules.Rule(ctx, q.RuleName)
	if err != nil {
		return nil, a.ruleError(q.RuleName, err)
	}
	r := st.Rule
	out := &getTopicRuleResponse{RuleARN: a.ruleARN(r.Name), Rule: topicRule{
		RuleName: r.Name, SQL: r.SQL, Description: r.Description, CreatedAt: Time{st.CreatedAt}, Actions: r.Actions,
		RuleDisabled: r.Disabled, AwsIotSQLVersion: r.SQLVersion, ErrorAction: r.ErrorAction,
	}}
	if out.Rule.AwsIotSQLVersion == "" {
		out.Rule.AwsIotSQLVersion = defaultSQLVersion
	}
	if out.Rule.Actions == nil {
		out.Rule.Actions = []rules.Action{}
	}
	return out, nil
}

type listTopicRulesRequest struct {
	Topic        string `json:"topic" in:"query"`
	MaxResults   *int64 `json:"maxResults" in:"query" is:"1..10000"`
	NextToken    string `json:"nextToken" in:"query"`
	RuleDisabled *bool  `json:"ruleDisabled" in:"query"`
}

type listTopicRulesResponse struct {
	Rules     []topicRuleListItem `json:"rules"`
	NextToken string              `json:"nextToken,omitempty"`
}

type topicRuleListItem struct {
	RuleARN      string `json:"ruleArn"`
	RuleName     string `json:"ruleName"`
	TopicPattern string `json:"topicPattern,omitempty"`
	CreatedAt    Time   `json:"createdAt"`
	RuleDisabled bool   `json:"ruleDisabled"`
}

// from returns the topic filter of a statement as it is written, "" where there
// is none.
func from(source string) string {
	st, err := sql.Parse(source)
	if err != nil || !st.HasFrom {
		return ""
	}
	return st.Filter
}

func (a *API) listTopicRules(ctx context.Context, q *listTopicRulesRequest) (*listTopicRulesResponse, error) {
	all, err := a.o.Rules.All(ctx)
	if err != nil {
		return nil, err
	}
	kept := all[:0:0]
	for _, st := range all {
		if q.RuleDisabled != nil && st.Rule.Disabled != *q.RuleDisabled {
			continue
		}
		if q.Topic != "" {
			if f := from(st.Rule.SQL); f != q.Topic && !topic.Match(topic.Filter(f), topic.Name(q.Topic), topic.AWS) {
				continue
			}
		}
		kept = append(kept, st)
	}
	part, next, err := page("ListTopicRules", kept, func(st *rules.Stored) string { return st.Rule.Name }, q.NextToken, q.MaxResults, 1000, false)
	if err != nil {
		return nil, err
	}
	out := &listTopicRulesResponse{Rules: make([]topicRuleListItem, 0, len(part)), NextToken: next}
	for _, st := range part {
		out.Rules = append(out.Rules, topicRuleListItem{
			RuleARN: a.ruleARN(st.Rule.Name), RuleName: st.Rule.Name, TopicPattern: from(st.Rule.SQL),
			CreatedAt: Time{st.CreatedAt.Truncate(time.Millisecond)}, RuleDisabled: st.Rule.Disabled,
		})
	}
	return out, nil
}

// deleteTopicRule succeeds also where there is no such rule, as AWS does.
func (a *API) deleteTopicRule(ctx context.Context, q *ruleNameRequest) (*none, error) {
	err := a.o.Rules.Delete(ctx, q.RuleName)
	if err != nil && !errs.Is(err, errs.NotFound) {
		return nil, err
	}
	return &none{}, a.o.Registry.SetRuleTags(ctx, q.RuleName, nil)
}

func (a *API) enableTopicRule(ctx context.Context, q *ruleNameRequest) (*none, error) {
	return &none{}, a.ruleError(q.RuleName, a.o.Rules.SetEnabled(ctx, q.RuleName, true))
}

func (a *API) disableTopicRule(ctx context.Context, q *ruleNameRequest) (*none, error) {
	return &none{}, a.ruleError(q.RuleName, a.o.Rules.SetEnabled(ctx, q.RuleName, false))
}
