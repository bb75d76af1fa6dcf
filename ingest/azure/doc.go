// Package azure is the gateway's dialect of Azure IoT Hub: devices and back ends
// written for that service connect unmodified.
//
// A device's way: the MQTT gateway asks Hub.Authenticate at CONNECT, which
// recognises the user name and checks a SAS token or a certificate's thumbprint.
// The principal it makes carries a Device, which is the connection's dialect
// (ingest/mqtt.Dialect, by shape): telemetry becomes an event on
// devices/<id>/messages/events, messages to the device are events on a topic of
// $azure that no other client reaches, and what asks for an answer (twin,
// method) is a call. Sessions, replay and acknowledgements are the gateway's.
//
// A twin is a view of the shadow of the thing of the same name: what either side
// writes, both see, and both are told of.
//
// Messages to a device wait on the log, and so does what became of each. The queue
// is a projection of the two, the same in all gateways; a device's subscription
// begins at the oldest message that waits.
//
// Files: sas.go tokens; identity.go and store.go the device registry; login.go
// who connects; device.go and bag.go the topics; twin.go, method.go, c2d.go the
// services; queue.go messages to devices and feedback.go what became of them;
// events.go what the hub tells; peers.go the other gateways; rest.go the REST API
// of the service side, with registry.go, service.go and query_rest.go its
// operations; query.go its query language.
package azure
