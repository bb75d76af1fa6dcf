// Package kv keeps state with versions: buckets of keys in the log's store,
// changed only by compare-and-set.
//
// In a message's way it holds what lasts beyond a message: sessions, lanes'
// positions, shadows, the registry. Updates of one bucket that arrive together
// share one atomic batch and one sync, as events do. A value is never deleted,
// purged or expired: a crash would bring the old one back. An empty value
// clears a key.
package kv
