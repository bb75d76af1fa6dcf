// Package eventlog is the log: every published message becomes an event on a
// JetStream stream, and everybody who acts on events follows that stream from a
// position.
//
// In a message's way it comes between the gateway and all others. Append queues
// an event for its partition's appender, which commits what is waiting as one
// group and then tells each publisher's Receipt; only after that do Followers
// see the event, from a ring of the newest committed events or, where they have
// fallen behind, from the stream.
package eventlog
