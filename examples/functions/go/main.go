// Command go is a function for AWS Lambda as it stands in Amazon's own library:
// Weir runs it unchanged.
//
//	CGO_ENABLED=0 go build -o build/bootstrap ./examples/functions/go
//	weir function deploy celsius --runtime provided --code build
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"
)

// Reading is what a device sends.
type Reading struct {
	Device     string   `json:"device"`
	Fahrenheit *float64 `json:"fahrenheit"`
}

// Answer is the same in degrees Celsius.
type Answer struct {
	Device  string  `json:"device"`
	Celsius float64 `json:"celsius"`
	Request string  `json:"request"`
}

func handle(ctx context.Context, r Reading) (*Answer, error) {
	if r.Fahrenheit == nil {
		return nil, errors.New("fahrenheit is missing")
	}
	lc, _ := lambdacontext.FromContext(ctx)
	fmt.Fprintln(os.Stderr, "reading of", r.Device)
	return &Answer{Device: r.Device, Celsius: (*r.Fahrenheit - 32) * 5 / 9, Request: lc.AwsRequestID}, nil
}

func main() { lambda.Start(handle) }
