// Package sigv4 judges requests signed with AWS Signature Version 4: who signed
// them, and whether they are what was signed.
//
// It stands at three doors: a WebSocket of MQTT (presigned query), HTTPS publish
// and the REST APIs (Authorization header, presigned query too). The key's
// secret and policies come from the registry; what a caller may do is decided by
// those who asked, from the policies.
//
// A request is verified as it was received: method, path, query, signed headers
// and body. Nothing of it is normalised first, for two requests that mean
// different things must not have the same signature: a path is encoded once more
// as it stands, '+' in a query is a space as it is for handlers, a query key that
// comes twice is refused. A presigned URL can be used again until it expires; it
// is a password and never logged.
//
// Source: AWS General Reference, "Signing AWS API requests"; AWS IoT Core
// developer guide, "Device communication protocols".
package sigv4
