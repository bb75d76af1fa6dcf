// Package ingest holds what the dialects of the device gateway share: the
// limits they hold and what a client may do on topics that begin with '$'.
//
// A message comes in by one of the dialects below this folder (mqtt, https).
// auth says who it is and whether it may; this package says whether the message
// is within limits; then the dialect appends it to the event log. It is
// acknowledged when the log has committed it, never before.
package ingest
