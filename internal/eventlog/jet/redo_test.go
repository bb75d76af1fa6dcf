package jet

import (
	"bytes"
	"fmt"
	"os"
	"testing"
)

// What the stream lacks of a recorded batch is appended when it is opened: the
// rest of one that was begun, all of one that may have been lost, nothing of one
// that was refused or is there, and nothing of a record that was cut off.
func TestRedo(t *testing.T) {
	keep := StreamConfig{Name: "K", Subjects: []string{"k.>"}, PerSubject: 1}
	type message struct {
		subject string
		expect  int // -1: none
	}
	for name, c := range map[string]struct {
		there []string // subjects published beforehand
		base  uint64
		batch []message
		spoil func(b []byte) []byte
		want  uint64 // where the stream ends then
	}{
		"nothing of it":          {there: []string{"k.a"}, base: 1, batch: []message{{"k.a", 1}, {"k.b", 0}, {"k.c", -1}}, want: 4},
		"a part":                 {there: []string{"k.a", "k.b"}, base: 1, batch: []message{{"k.b", 0}, {"k.c", 0}}, want: 3},
		"all":                    {there: []string{"k.a", "k.b", "k.c"}, base: 1, batch: []message{{"k.b", 0}, {"k.c", 0}}, want: 3},
		"all, and more":          {there: []string{"k.a", "k.b", "k.c"}, base: 0, batch: []message{{"k.a", 0}}, want: 3},
		"refused":                {there: []string{"k.a", "k.b"}, base: 2, batch: []message{{"k.c", 0}, {"k.a", 7}}, want: 2},
		"the old one was lost":   {there: []string{"k.a"}, base: 1, batch: []message{{"k.b", 9}}, want: 2},
		"the end was lost, too":  {there: []string{"k.a"}, base: 5, batch: []message{{"k.b", 4}, {"k.c", 5}}, want: 3},
		"another message":        {there: []string{"k.a", "k.x"}, base: 1, batch: []message{{"k.b", 0}, {"k.c", 0}}, want: 2},
		"a record that was torn": {there: []string{"k.a"}, base: 1, batch: []message{{"k.b", 0}}, spoil: func(b []byte) []byte { return b[:len(b)-1] }, want: 1},
		"a record that is wrong": {there: []string{"k.a"}, base: 1, batch: []message{{"k.b", 0}}, spoil: func(b []byte) []byte { b[len(b)-1] ^= 1; return b }, want: 1},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s, err := Open(t.Context(), Options{Dir: dir, Durability: Disk})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if _, _, err := s.Ensure(keep); err != nil {
				t.Fatal(err)
			}
			put := func(subject string) {
				t.Helper()
				if err := s.with(func(c *conn) error { _, err := c.request(subject, []byte("old"), s.o.Deadline); return err }); err != nil {
					t.Fatal(err)
				}
			}
			for _, subject := range c.there {
				put(subject)
			}
			r, err := s.openRedo("K")
			if err != nil {
				t.Fatal(err)
			}
			defer r.f.Close()
			r.begin(c.base)
			for _, m := range c.batch {
				header := ""
				if m.expect >= 0 {
					header = fmt.Sprintf("%s:%d\r\n", ExpectedLast, m.expect)
				}
				r.add([]byte(m.subject), []byte(header), []byte("new"))
			}
			if err := r.commit(); err != nil {
				t.Fatal(err)
			}
			if c.spoil != nil {
				b, err := os.ReadFile(s.redoFile("K"))
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(s.redoFile("K"), c.spoil(b), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 { // the second time there is nothing to do
				_, st, err := s.Ensure(keep)
				if err != nil || st.LastSeq != c.want {
					t.Fatalf("the stream ends at %d, not %d: %v", st.LastSeq, c.want, err)
				}
			}
			if c.want == uint64(len(c.there)) {
				return
			}
			for _, m := range c.batch[max(0, len(c.there)-int(c.base)):] {
				if last, ok, err := s.last("K", m.subject); err != nil || !ok || string(last.Payload) != "new" {
					t.Errorf("%s is %q, %v", m.subject, last.Payload, err)
				}
			}
		})
	}
}

// A batch that the store refused is not there, nor is it after another start.
func TestRefusedIsNotRedone(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, Options{Dir: dir, Durability: Disk}, nil)
	r.add(t, msg{subject: "t.a", bodies: []string{"1"}})
	if o := r.next(t); o.r.Err != nil {
		t.Fatal(o.r.Err)
	}
	if !r.s.redoes("T") {
		t.Skip("batches are staged on disk here")
	}
	r.add(t, msg{subject: "t.b", bodies: []string{"2", "3"}, header: ExpectedLast + ":77\r\n"})
	if o := r.next(t); o.r.Err == nil {
		t.Fatal("a batch with the wrong expectation is stored")
	}
	_, st, err := r.s.Ensure(StreamConfig{Name: "T", Subjects: []string{"t.>"}})
	if err != nil || st.LastSeq != 1 {
		t.Errorf("the stream ends at %d, %v", st.LastSeq, err)
	}
}

func FuzzRedo(f *testing.F) {
	r := &redo{}
	r.begin(7)
	r.add([]byte("t.a"), []byte("x:1\r\n"), []byte("payload"))
	f.Add(r.buf)
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, _, _ = readRedo(bytes.NewReader(b))
		if len(b) < redoHead {
			return
		}
		// With the sums right, too.
		r := &redo{buf: b}
		r.sum()
		base, list, ok, err := readRedo(bytes.NewReader(r.buf))
		if err != nil || !ok {
			return
		}
		again := &redo{}
		again.begin(base)
		for _, m := range list {
			again.add(m.subject, m.header, m.payload)
		}
		again.sum()
		if !bytes.Equal(again.buf, r.buf) {
			t.Fatalf("% x becomes % x", r.buf, again.buf)
		}
	})
}
