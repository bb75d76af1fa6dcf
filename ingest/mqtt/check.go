package mqtt

import (
	"encoding/binary"
	"unicode/utf8"

	"github.com/mochi-mqtt/server/v2/packets"
)

// The shape of a property's value.
const (
	aBool byte = iota + 1
	aUint16
	aUint16Not0
	aUint32
	aUint32Not0
	anID // variable byte integer, not 0
	aText
	aBinary
	aPair
)

const willProperties = packets.WillProperties

// properties lists what a client may send where. Source: MQTT 5, table 2-4.
var properties = [43]struct {
	shape byte
	in    []byte
}{
	packets.PropPayloadFormat:          {aBool, []byte{packets.Publish, willProperties}},
	packets.PropMessageExpiryInterval:  {aUint32, []byte{packets.Publish, willProperties}},
	packets.PropContentType:            {aText, []byte{packets.Publish, willProperties}},
	packets.PropResponseTopic:          {aText, []byte{packets.Publish, willProperties}},
	packets.PropCorrelationData:        {aBinary, []byte{packets.Publish, willProperties}},
	packets.PropSubscriptionIdentifier: {anID, []byte{packets.Subscribe}},
	packets.PropSessionExpiryInterval:  {aUint32, []byte{packets.Connect, packets.Disconnect}},
	packets.PropAuthenticationMethod:   {aText, []byte{packets.Connect, packets.Auth}},
	packets.PropAuthenticationData:     {aBinary, []byte{packets.Connect, packets.Auth}},
	packets.PropRequestProblemInfo:     {aBool, []byte{packets.Connect}},
	packets.PropWillDelayInterval:      {aUint32, []byte{willProperties}},
	packets.PropRequestResponseInfo:    {aBool, []byte{packets.Connect}},
	packets.PropReasonString:           {aText, []byte{packets.Puback, packets.Disconnect, packets.Auth}},
	packets.PropReceiveMaximum:         {aUint16Not0, []byte{packets.Connect}},
	packets.PropTopicAliasMaximum:      {aUint16, []byte{packets.Connect}},
	packets.PropTopicAlias:             {aUint16, []byte{packets.Publish}}, // 0 has its own reason code
	packets.PropUser:                   {aPair, []byte{packets.Connect, packets.Publish, packets.Puback, packets.Subscribe, packets.Unsubscribe, packets.Disconnect, packets.Auth, willProperties}},
	packets.PropMaximumPacketSize:      {aUint32Not0, []byte{packets.Connect}},
}

var errProperties = faultf(codeProtocol, "protocol", "a property is repeated, out of place or has a value that is not allowed")

// cutProperties splits the property section off b.
func cutProperties(b []byte) (section, rest []byte, f *fault) {
	n, k := varint(b)
	if k == 0 || n > len(b)-k {
		return nil, nil, errMalformed
	}
	return b[k : k+n], b[k+n:], nil
}

// varint decodes a variable byte integer; k is 0 where there is none.
func varint(b []byte) (n, k int) {
	for shift := 0; shift <= 21 && k < len(b); shift += 7 {
		c := b[k]
		k++
		n |= int(c&127) << shift
		if c < 128 {
			return n, k
		}
	}
	return 0, 0
}

// checkProperties holds a property section against what may come in packet
// type pkt. The codec takes repeated properties and reads behind the section.
func checkProperties(b []byte, pkt byte) *fault {
	var seen uint64
	for len(b) > 0 {
		id := b[0] // ids above 127 are two bytes long and none is known
		if int(id) >= len(properties) || properties[id].shape == 0 {
			return errMalformed
		}
		p := &properties[id]
		allowed := false
		for _, t := range p.in {
			allowed = allowed || t == pkt
		}
		if !allowed || seen&(1<<id) != 0 && p.shape != aPair {
			return errProperties
		}
		seen |= 1 << id
		b = b[1:]
		n := 0
		switch p.shape {
		case aBool:
			n = 1
			if len(b) >= 1 && b[0] > 1 {
				return errProperties
			}
		case aUint16, aUint16Not0:
			n = 2
			if p.shape == aUint16Not0 && len(b) >= 2 && b[0]|b[1] == 0 {
				return errProperties
			}
		case aUint32, aUint32Not0:
			n = 4
			if p.shape == aUint32Not0 && len(b) >= 4 && b[0]|b[1]|b[2]|b[3] == 0 {
				return errProperties
			}
		case anID:
			v, k := varint(b)
			if k == 0 {
				return errMalformed
			}
			if v == 0 {
				return errProperties
			}
			n = k
		case aText, aBinary:
			s, _, ok := cutField(b)
			if !ok || p.shape == aText && !validText(s) {
				return errMalformed
			}
			n = 2 + len(s)
		case aPair:
			k, rest, ok := cutField(b)
			if !ok {
				return errMalformed
			}
			v, _, ok := cutField(rest)
			if !ok || !validText(k) || !validText(v) {
				return errMalformed
			}
			n = 4 + len(k) + len(v)
		}
		if n > len(b) {
			return errMalformed
		}
		b = b[n:]
	}
	return nil
}

// cutField splits a field with a two-byte length off b.
func cutField(b []byte) (field, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if n > len(b)-2 {
		return nil, nil, false
	}
	return b[2 : 2+n], b[2+n:], true
}

func validText(b []byte) bool {
	if !utf8.Valid(b) {
		return false
	}
	for _, c := range b {
		if c == 0 {
			return false
		}
	}
	return true
}

// checkConnect walks a CONNECT body and reports what is wrong with its form.
// version is the protocol level where it is known, for the form of the answer.
func checkConnect(b []byte) (version byte, f *fault) {
	name, b, ok := cutField(b)
	if !ok || len(b) < 1 {
		return 0, errMalformed
	}
	version = b[0]
	if string(name) != "MQTT" && string(name) != "MQIsdp" {
		return 0, faultf(codeProtocol, "protocol", "protocol name is not MQTT")
	}
	if string(name) != "MQTT" || version != 4 && version != 5 {
		return version, faultf(codeVersion, "version", "protocol version is not supported")
	}
	if len(b) < 4 {
		return version, errMalformed
	}
	flags := b[1]
	b = b[4:] // level, flags, keep-alive
	will, willQoS := flags&4 != 0, flags>>3&3
	switch {
	case flags&1 != 0, willQoS == 3, !will && (willQoS != 0 || flags&0x20 != 0):
		return version, errMalformed
	case version == 4 && flags&0x40 != 0 && flags&0x80 == 0:
		return version, errMalformed // a password without a user name
	}
	section := func(pkt byte) *fault {
		if version != 5 {
			return nil
		}
		s, rest, f := cutProperties(b)
		if f != nil {
			return f
		}
		b = rest
		return checkProperties(s, pkt)
	}
	field := func(text bool) bool {
		var s []byte
		if s, b, ok = cutField(b); !ok {
			return false
		}
		return !text || validText(s)
	}
	if f := section(packets.Connect); f != nil {
		return version, f
	}
	if !field(true) {
		return version, errMalformed
	}
	if will {
		if f := section(willProperties); f != nil {
			return version, f
		}
		if !field(true) || !field(false) {
			return version, errMalformed
		}
	}
	if flags&0x80 != 0 && !field(true) || flags&0x40 != 0 && !field(false) {
		return version, errMalformed
	}
	if len(b) != 0 {
		return version, errMalformed
	}
	return version, nil
}

// checkSubscribe walks the body of a SUBSCRIBE or UNSUBSCRIBE.
func checkSubscribe(b []byte, pkt byte, v5 bool) *fault {
	if len(b) < 2 {
		return errMalformed
	}
	if b[0]|b[1] == 0 {
		return faultf(codeProtocol, "protocol", "packet identifier 0")
	}
	b = b[2:]
	if v5 {
		s, rest, f := cutProperties(b)
		if f != nil {
			return f
		}
		if f := checkProperties(s, pkt); f != nil {
			return f
		}
		b = rest
	}
	if len(b) == 0 {
		return faultf(codeProtocol, "protocol", "no topic filter")
	}
	for len(b) > 0 {
		s, rest, ok := cutField(b)
		if !ok || !validText(s) {
			return errMalformed
		}
		b = rest
		if pkt == packets.Unsubscribe {
			continue
		}
		if len(b) == 0 {
			return errMalformed
		}
		o := b[0]
		b = b[1:]
		if o&3 == 3 || !v5 && o&^3 != 0 || v5 && (o&0xc0 != 0 || o>>4&3 == 3) {
			return errMalformed
		}
	}
	return nil
}

// checkReason walks the body of a PUBACK (after its packet id), DISCONNECT or
// AUTH of MQTT 5: a reason code and properties, each of which may be left out.
func checkReason(b []byte, pkt byte) *fault {
	if len(b) < 2 {
		return nil
	}
	s, rest, f := cutProperties(b[1:])
	if f != nil {
		return f
	}
	if len(rest) != 0 {
		return errMalformed
	}
	return checkProperties(s, pkt)
}
