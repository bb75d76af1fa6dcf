// Package shadow keeps what is wanted of devices and what they report, as
// versioned documents with a past.
//
// A device or an application publishes on $aws/things/<thing>/shadow/…; the
// gateway appends that to the log like any event, and this package's worker of
// the partition follows the log, changes the document by compare-and-set in the
// bucket "shadows" and appends the answers (accepted, rejected, delta,
// documents) to the log, from where subscribers and rules have them. The Go API
// takes the same way: its requests are events too, on a topic no client reaches,
// so that one worker sees all requests of a thing in one order. A crash repeats
// what was not saved yet: a document knows the request that made it, so nothing
// is applied twice.
//
// Files: value.go is JSON as documents need it, merge.go the pure functions,
// request.go and document.go the forms AWS documents, record.go what is stored,
// service.go the API, partition.go and session.go the workers, past.go history,
// apart.go deltas nobody confirms.
package shadow
