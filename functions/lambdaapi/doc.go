// Package lambdaapi serves functions over HTTP: the part of the AWS Lambda API
// that its command line and SDKs use to make and invoke functions, and what
// weir function asks besides.
//
// In a message's way it is the door from outside: a request is checked by
// whoever Options.Authorize is, becomes a functions.Request, and its outcome the
// status, headers and body that AWS's clients expect.
package lambdaapi
