package functions

import (
	"regexp"
	"strings"

	"github.com/weir-iot/weir/internal/errs"
)

// Latest is the qualifier of the version that was deployed last.
const Latest = "$LATEST"

// reference splits what the APIs take for a function: a name, an ARN or the part
// of one from the account on, each with or without a qualifier.
// Source: AWS Lambda API reference, Invoke, FunctionName.
var reference = regexp.MustCompile(`^(?:arn:(aws[a-zA-Z-]*):lambda:)?(?:([a-z]{2}(?:-[a-z]+)+-\d):)?(?:(\d{12}):)?(function:)?([a-zA-Z0-9-_]{1,64})(?::(\$LATEST|[a-zA-Z0-9-_]{1,128}))?$`)

var validName = regexp.MustCompile(`^[a-zA-Z0-9-_]{1,64}$`)

// resolve returns the function's name and qualifier ("": none was given). own is
// false for an ARN of another account or region.
func (s *Service) resolve(ref, qualifier string) (name, version string, own bool, err error) {
	const op = "functions.resolve"
	if len(ref) > 256 {
		return "", "", false, errs.Errorf(op, errs.Invalid, "a function's name or ARN has more than 256 characters")
	}
	m := reference.FindStringSubmatch(ref)
	if m == nil {
		return "", "", false, errs.Errorf(op, errs.Invalid, "%q is neither the name nor the ARN of a function", ref)
	}
	version = m[6]
	switch {
	case qualifier == "":
	case version != "" && version != qualifier:
		return "", "", false, errs.Errorf(op, errs.Invalid, "the qualifier %s is not that of %s", qualifier, ref)
	default:
		version = qualifier
	}
	own = (m[2] == "" || m[2] == s.o.Region) && (m[3] == "" || m[3] == s.o.AccountID)
	return m[5], version, own, nil
}

// ARN returns the ARN of a function, of one of its versions where version is
// neither "" nor Latest.
func (s *Service) ARN(name, version string) string {
	arn := "arn:aws:lambda:" + s.o.Region + ":" + s.o.AccountID + ":function:" + name
	if version != "" && version != Latest {
		arn += ":" + version
	}
	return arn
}

// family is what a runtime's name begins with: "provided" for
// "provided.al2023", "nodejs" for "nodejs20.x".
func family(runtime string) string {
	for _, f := range []string{"provided", "nodejs", "python"} {
		if rest, ok := strings.CutPrefix(runtime, f); ok && (rest == "" || rest[0] == '.' || rest[0] >= '0' && rest[0] <= '9') {
			return f
		}
	}
	return runtime
}
