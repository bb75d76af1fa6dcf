// Package jet is Weir's hold on NATS JetStream: the embedded server or the
// external cluster, raw protocol connections, group commit and cheap reads.
//
// In a message's way it lies between eventlog (and kv) and the disk. An
// Appender writes what its owner queued as atomic batches or pipelined
// publishes and tells the owner what was committed; a Reader fetches stored
// messages back. A commit whose outcome is unknown (no answer, a full disk)
// acknowledges nothing: the Store is opened anew and the stream's end read
// again, without help from outside.
package jet
