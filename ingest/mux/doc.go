// Package mux is the one port (443 at AWS) that serves MQTT, MQTT over WebSocket
// and HTTPS side by side, told apart by the ALPN name and the first bytes.
//
// It stands before the dialects: it reads a connection's ClientHello without
// answering it, and hands the connection, whole again, to the MQTT gateway or to
// the HTTPS server, which end TLS themselves. Its Methods is the table of who may
// use which authentication on which way in; the dialects ask it as their
// Authenticator.
//
//	ALPN            first bytes   served as              authentication
//	x-amzn-mqtt-ca  any           MQTT                   client certificate
//	mqtt            any           MQTT                   custom authorizer
//	x-amzn-http-ca  any           HTTPS publish, data    client certificate
//	none            HTTP          HTTPS publish, data    Signature Version 4; custom authorizer
//	none            GET /mqtt     MQTT over WebSocket    Signature Version 4; custom authorizer
//	none            MQTT          refused
//
// http/1.1 counts as none; a client that offers only names not known here is
// refused. The ports of one protocol (8883, 8443) take client certificates only.
// Source: AWS IoT Core developer guide, "Device communication protocols".
package mux
