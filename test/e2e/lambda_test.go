package e2e

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/lambda"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/test/weirtest"
)

// The Lambda API takes requests signed with an access key, beside the other AWS
// APIs on the same port, and refuses those signed with another secret.
func TestLambdaAPITakesSignatures(t *testing.T) {
	w := weirtest.Start(t)
	k, err := control.ReadAccessKey(w.Endpoints().AccessKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	for secret, ok := range map[string]bool{k.Secret: true, "another": false} {
		c := lambda.New(lambda.Options{Region: "us-east-1", BaseEndpoint: aws.String(w.Endpoints().API), RetryMaxAttempts: 1,
			Credentials: credentials.NewStaticCredentialsProvider(k.ID, secret, "")})
		if _, err := c.ListFunctions(t.Context(), &lambda.ListFunctionsInput{}); (err == nil) != ok {
			t.Errorf("right secret %v: %v", ok, err)
		}
	}
}
