package lookup

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"github.com/weir-iot/weir/internal/errs"
)

// maxSecretAnswer bounds an answer of Secrets Manager: a secret has up to 64
// KiB, and each of its bytes takes up to six in JSON.
// Source: AWS Secrets Manager API, GetSecretValue.
const maxSecretAnswer = 6*64<<10 + 16<<10

// secrets reads secrets with GetSecretValue, in their current version. Of an
// error only its code is told.
type secrets struct{ c *secretsmanager.Client }

// Secret implements eval.SecretReader. A secret that does not exist is an error.
func (s secrets) Secret(ctx context.Context, id string, binary bool, _ string) ([]byte, error) {
	const op = "lookup.Secret"
	what := fmt.Sprintf("secret %.255q", id)
	out, err := s.c.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: &id})
	switch {
	case err != nil:
		return nil, failed(op, what, "Secrets Manager", err, false)
	case binary && out.SecretBinary != nil:
		return out.SecretBinary, nil
	case binary:
		return nil, errs.Errorf(op, errs.Invalid, "%s has no SecretBinary", what)
	case out.SecretString != nil:
		return []byte(*out.SecretString), nil
	}
	return nil, errs.Errorf(op, errs.Invalid, "%s has no SecretString", what)
}
