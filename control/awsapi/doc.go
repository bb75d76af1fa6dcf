// Package awsapi is the HTTP API of AWS IoT (services iot, iot-data and
// iot-jobs-data) over the rooms of Weir, so that the AWS command line, SDKs and
// Terraform work with it as they are.
//
// A request finds its operation by method and path, is verified by its
// signature, decoded and validated by the operation's shape, permitted by the
// caller's policy, and answered by its handler. All of that, and the table in
// docs/compatibility.md, comes from one table of operations: see operations. An
// operation of the public API model that the table does not have is refused by
// name. A message takes this way where it is published over the REST API: the
// handler hands it to the log and answers once it is committed.
package awsapi

//go:generate go run ./reference ../../docs/compatibility.md
