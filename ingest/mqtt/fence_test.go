package mqtt

import (
	"bytes"
	"testing"
)

func FuzzUnseal(f *testing.F) {
	f.Add(seal("0123456789abcdef", []byte{recordVersion, 0, 0}))
	f.Add([]byte{recordVersion, 1, 2})
	f.Add([]byte{owned, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte{owned})
	f.Fuzz(func(t *testing.T, b []byte) {
		owner, record := unseal(b)
		if len(owner)+len(record) > len(b) {
			t.Fatalf("%d bytes become %d", len(b), len(owner)+len(record))
		}
		again, same := unseal(seal(owner, record))
		if again != owner || !bytes.Equal(same, record) {
			t.Fatalf("%q %x becomes %q %x", owner, record, again, same)
		}
	})
}
