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
// Files: sas.go tokens; identity.go and store.go the device registry; login.go
// who connects; device.go and bag.go the topics; twin.go, method.go, c2d.go the
// services; rest.go and its neighbours the REST API of the service side; query.go
// its query language.
package azure
