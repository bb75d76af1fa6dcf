package azure

import (
	"errors"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/weir-iot/weir/internal/event"
)

// system maps the short names of system properties in a topic to the names
// readers of the hub's events know.
// Source: Azure IoT Hub, "Create and read IoT Hub messages".
var system = map[string]string{
	"$.mid": "message-id", "$.cid": "correlation-id", "$.uid": "user-id", "$.to": "to", "$.ct": "content-type",
	"$.ce": "content-encoding", "$.ctime": "iothub-creation-time-utc", "$.exp": "absolute-expiry-time",
	"$.on": "iothub-outputname", "$.ifid": "iothub-interface-id", "$.sub": "dt-subject",
}

// short is system the other way round.
var short = func() map[string]string {
	m := map[string]string{}
	for k, v := range system {
		m[v] = k
	}
	return m
}()

// byShort is system without the '$'.
var byShort = func() map[string]string {
	m := map[string]string{}
	for k, v := range system {
		m[k[1:]] = v
	}
	return m
}()

// What the hub says of a message; a device cannot.
const (
	propDevice  = "iothub-connection-device-id"
	propModule  = "iothub-connection-module-id"
	propMessage = "iothub-MessageType"
	propRetain  = "x-opt-retain"
	propAck     = "iothub-ack"
)

// maxBag bounds a property bag, in bytes.
const maxBag = 16 << 10

var errBag = errors.New("the properties in the topic are not URL-encoded pairs")

// parseBag adds the properties of a bag to p. A system property has its own name
// there; an application property that has the name of one of the hub's is left
// out.
func parseBag(bag string, p *event.Properties) error {
	bag = strings.TrimSuffix(strings.TrimPrefix(bag, "?"), "/")
	if len(bag) > maxBag || strings.Contains(bag, "/") {
		return errBag
	}
	for len(bag) > 0 {
		part := bag
		if i := strings.IndexByte(bag, '&'); i >= 0 {
			part, bag = bag[:i], bag[i+1:]
		} else {
			bag = ""
		}
		if part == "" {
			continue
		}
		k, v, _ := strings.Cut(part, "=")
		key, known, err := propertyName(k)
		if err != nil || key == "" {
			return errBag
		}
		value, err := unescape(v)
		if err != nil {
			return errBag
		}
		if known && key == "content-type" {
			p.ContentType = value
			continue
		}
		switch key {
		case propDevice, propModule, propMessage, propRetain:
			continue
		}
		p.User = append(p.User, event.UserProperty{Key: key, Value: value})
	}
	return nil
}

// propertyName returns the name of a property that is written as s, and whether it
// is a system property. The names that clients send with each message make no
// garbage.
func propertyName(s string) (name string, known bool, err error) {
	if strings.HasPrefix(s, "%24.") || strings.HasPrefix(s, "$.") {
		if name, known = byShort[s[strings.IndexByte(s, '.'):]]; known {
			return name, true, nil
		}
	}
	key, err := unescape(s)
	if name, known = system[key]; known {
		return name, true, err
	}
	return key, false, err
}

func unescape(s string) (string, error) {
	if strings.IndexByte(s, '%') < 0 {
		return s, nil
	}
	out, err := url.PathUnescape(s)
	if err != nil || !utf8.ValidString(out) || strings.IndexByte(out, 0) >= 0 {
		return "", errBag
	}
	return out, nil
}

// appendBag writes properties as the bag of a topic.
func appendBag(b []byte, p *event.Properties) []byte {
	if p == nil {
		return b
	}
	n := len(b)
	pair := func(k, v string) {
		if len(b) > n {
			b = append(b, '&')
		}
		b = append(append(append(b, escape(k)...), '='), escape(v)...)
	}
	if p.ContentType != "" {
		pair("$.ct", p.ContentType)
	}
	for _, u := range p.User {
		k := u.Key
		if s, ok := short[k]; ok {
			k = s
		}
		pair(k, u.Value)
	}
	return b
}

// escape encodes all that is not unreserved; a space is %20.
func escape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }
