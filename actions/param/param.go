// Package param checks the text fields that several kinds of action share:
// substitution templates and role ARNs.
//
// It works when a rule is created, before any message comes: what it returns is
// ready to be executed for each result.
package param

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"unicode/utf8"

	"github.com/weir-iot/weir/actions"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/rules/sql"
)

// Text is a field's text, with or without substitution templates. The zero Text
// is an absent field.
type Text struct {
	path     []string
	src      string
	template actions.Template // nil: absent or literal
}

// Compile compiles src, the text of the field at path. A mistake is a
// *actions.FieldError with its position in src.
func Compile(env actions.Env, src string, path ...string) (Text, error) {
	t := Text{path: path, src: src}
	if src == "" {
		return t, nil
	}
	if env.Template == nil {
		return t, Wrong(path, "substitution templates cannot be compiled here", "")
	}
	tpl, err := env.Template(src)
	if err != nil {
		fe := &actions.FieldError{Path: path, Offset: -1, Msg: err.Error(), Err: err}
		var at *sql.Error
		if errors.As(err, &at) {
			fe.Offset, fe.Msg, fe.Hint = at.Span.From, at.Msg, at.Hint
		}
		return t, fe
	}
	if text, ok := tpl.Literal(); ok {
		t.src = text
	} else {
		t.template = tpl
	}
	return t, nil
}

// Literal returns the text where it has no substitution template.
func (t Text) Literal() (string, bool) { return t.src, t.template == nil }

// IsZero reports whether the field is absent or empty.
func (t Text) IsZero() bool { return t.src == "" }

// Source returns the text as it was written.
func (t Text) Source() string { return t.src }

// Execute returns the text for one message. An error of the evaluation is
// Permanent.
func (t Text) Execute(ctx context.Context, e *event.Event) (string, error) {
	if t.template == nil {
		return t.src, nil
	}
	s, err := t.template.Execute(ctx, e)
	if err != nil {
		if ctx.Err() != nil {
			return "", actions.Unreachable(ctx.Err())
		}
		return "", actions.Permanent(fmt.Errorf("%s: %w", t.name(), err))
	}
	return s, nil
}

func (t Text) name() string {
	s := ""
	for i, p := range t.path {
		if i > 0 {
			s += "."
		}
		s += p
	}
	return s
}

// Wrong returns a *actions.FieldError for the field at path.
func Wrong(path []string, msg, hint string) error {
	return &actions.FieldError{Path: slices.Clone(path), Offset: -1, Msg: msg, Hint: hint}
}

// RoleHelp is the reference's text for roleArn.
const RoleHelp = "ARN of an IAM role, `arn:aws:iam::123456789012:role/name`. Weir has no roles: the text is checked for its shape and otherwise not used. The action acts with the credentials of the AWS environment."

// Role is the field roleArn.
var Role = actions.Field{Name: "roleArn", Type: actions.String, Help: RoleHelp}

var roleARN = regexp.MustCompile(`^arn:aws[a-z-]*:iam::[0-9]{12}:role/[\w+=,.@/-]{1,512}$`)

// CheckRole checks the shape of a role's ARN; "" is an absent one.
func CheckRole(arn string, path ...string) error {
	if arn != "" && !roleARN.MatchString(arn) {
		return Wrong(path, fmt.Sprintf("%q is not the ARN of an IAM role", arn), "expected arn:aws:iam::123456789012:role/name")
	}
	return nil
}

// Control returns the first control character of s, or a byte that is not UTF-8;
// ok is false where there is none.
func Control(s string) (what string, ok bool) {
	for i, r := range s {
		if r == utf8.RuneError {
			if _, n := utf8.DecodeRuneInString(s[i:]); n == 1 {
				return fmt.Sprintf("byte 0x%02x, which is not UTF-8", s[i]), true
			}
		}
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 {
			return fmt.Sprintf("control character %U", r), true
		}
	}
	return "", false
}
