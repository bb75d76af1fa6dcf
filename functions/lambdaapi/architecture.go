package lambdaapi

import "runtime"

// architecture is this machine's, as AWS Lambda calls it.
var architecture = map[string]string{"amd64": "x86_64", "arm64": "arm64"}[runtime.GOARCH]
