// Package functions runs code on events: programs that speak the AWS Lambda
// Runtime API, WebAssembly modules, functions of AWS Lambda and HTTP endpoints,
// all deployed by name and called in one way.
//
// In a message's way it stands behind the rules: the lambda action and
// aws_lambda() hand it an event, so do custom authorizers and provisioning hooks,
// and the Invoke API from outside. Service.Call finds the function's version,
// takes a place of its concurrency, gives the event to an execution environment
// (one that is warm, or a new one), and brings back the answer, or what became of
// it. Enqueue puts an event on the bucket first and answers then; Run takes it
// from there.
//
// What runs a version is its runner: process.go (with package sandbox below it),
// wasm.go, http.go, lambda.go. Records, versions, code and queued events lie in
// the bucket; the data folder holds unpacked code, which can be had again.
package functions
