package provision

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"

	"github.com/fxamacker/cbor/v2"
)

// Format is the form of a payload, as the last level of a topic names it.
type Format string

const (
	JSON Format = "json"
	CBOR Format = "cbor"
)

var (
	cborDecoder = must(cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, MaxNestedLevels: 8, MaxArrayElements: 256, MaxMapPairs: 256, TagsMd: cbor.TagsForbidden,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
	}.DecMode())
	cborEncoder = must(cbor.CanonicalEncOptions().EncMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var errPayload = errors.New("malformed payload")

// decode reads a payload into v, a struct with json tags. Members v does not
// have are ignored; of one that comes twice, CBOR is refused.
func (f Format) decode(payload []byte, v any) error {
	if f == CBOR {
		// Null and undefined would be taken as a struct with nothing in it.
		const mapOf = 5 // the major type
		if len(payload) == 0 || payload[0]>>5 != mapOf {
			return errPayload
		}
		return cborDecoder.Unmarshal(payload, v)
	}
	if t := bytes.TrimLeft(payload, " \t\r\n"); len(t) == 0 || t[0] != '{' {
		return errPayload
	}
	d := json.NewDecoder(bytes.NewReader(payload))
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errPayload
	}
	return nil
}

func (f Format) encode(v any) ([]byte, error) {
	if f == CBOR {
		return cborEncoder.Marshal(v)
	}
	return json.Marshal(v)
}
