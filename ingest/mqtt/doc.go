// Package mqtt is the gateway's MQTT dialect: versions 3.1.1 and 5, QoS 0 and 1,
// over TCP, TLS and WebSocket.
//
// The way in: a connection's read loop (conn.go) decodes a PUBLISH, checks it
// against limits and permissions and appends it to the event log without
// waiting. The log tells of the commit (Receipt); only then the PUBACK is
// written, in the order the publishes came, many in one write (acks.go). When
// many clients come at once over TLS, their handshakes take turns (turns.go).
//
// The way out: one router a partition (router.go) follows the log behind the
// commit and hands each event to the sessions whose filters match. A session
// (session.go) has a window of unacknowledged messages and a small queue. One
// that is too slow for them leaves the router, reads the log from where it
// stands, together with the others that are late (replay.go), and joins again
// when it has caught up: nothing of QoS 1 is dropped and nothing is queued
// without bound. No write to a socket ever blocks a router or the log
// (outbox.go).
//
// A shared subscription (share.go) is a group with a place in the log of its
// own; the router hands it an event as if it were a session, and it hands the
// event to a member that has room. Of several gateways one has the group
// (tenure.go) and hands the others what their members take (branch.go).
//
// A session that outlives its connection (persist.go) is a record in a bucket:
// its subscriptions, a cursor a partition and the window of what is in flight
// (record.go). Nothing is queued for a client that is away. When it comes back
// (resume.go) it is a slow session at its cursor: it is sent again what it had
// not acknowledged, reads what it has missed, and joins the router. A
// subscription that was replaced meanwhile still brings what it was to
// (replaced.go).
//
// The server loop is Weir's own, over the packet codec of mochi-mqtt. That
// server's hooks cannot hold what the gateway promises: it acknowledges a
// publish whose hook failed, fans out before a commit, drops QoS 1 messages at a
// full queue, allocates what a header claims before CONNECT, and keeps a queue
// of 8192 slots for every idle connection. Its codec is kept for the packets
// that come once a connection; every packet is checked by check.go before it,
// since the codec takes repeated properties and reads over the end of some
// packets. PUBLISH and PUBACK, which come with every message, are read and
// written in place (wire.go).
package mqtt
