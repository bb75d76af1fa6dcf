package jet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/weir-iot/weir/internal/errs"
)

// A batch that is staged in memory cannot be completed by the server after a
// power cut. Where half of one must never be seen, or a last value of a subject
// would be gone before its successor is there, the batch is first written to a
// file of its stream and synced: one sync instead of six. What the stream lacks of
// it is then appended when the stream is opened.
//
// The file holds the last batch only, at its beginning:
//
//	magic(4) size(4) CRC(4)      of what follows, size bytes
//	base(8)                      the stream's last sequence before the batch
//	for each message: length(4) and bytes of subject, header and payload
//
// Numbers are little endian, the CRC is Castagnoli's.

const (
	redoFolder = "redo"
	redoMagic  = 0x31445257 // "WRD1"
	redoHead   = 12
	redoKept   = 1 << 20 // bytes of memory a stream keeps for its next batch
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// redo is the file of one stream. It is used by its appender alone.
type redo struct {
	f   *os.File
	buf []byte
}

func (s *Store) redoFile(stream string) string {
	return filepath.Join(s.o.Dir, redoFolder, stream)
}

// openRedo opens the file of a stream, to write to.
func (s *Store) openRedo(stream string) (*redo, error) {
	if err := os.MkdirAll(filepath.Join(s.o.Dir, redoFolder), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(s.redoFile(stream), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	// What is in the file was dealt with when the stream was opened. Its name must
	// be as durable as what will be in it.
	if err := errors.Join(f.Sync(), syncDir(s.o.Dir)); err != nil {
		f.Close()
		return nil, err
	}
	return &redo{f: f}, nil
}

// begin starts a record of a batch.
func (r *redo) begin(base uint64) {
	r.buf = append(r.buf[:0], make([]byte, redoHead)...)
	r.buf = binary.LittleEndian.AppendUint64(r.buf, base)
}

func (r *redo) add(subject, header, payload []byte) {
	for _, b := range [][]byte{subject, header, payload} {
		r.buf = binary.LittleEndian.AppendUint32(r.buf, uint32(len(b)))
		r.buf = append(r.buf, b...)
	}
}

// sum completes the record's head.
func (r *redo) sum() {
	body := r.buf[redoHead:]
	binary.LittleEndian.PutUint32(r.buf, redoMagic)
	binary.LittleEndian.PutUint32(r.buf[4:], uint32(len(body)))
	binary.LittleEndian.PutUint32(r.buf[8:], crc32.Checksum(body, castagnoli))
}

// commit makes the record durable.
func (r *redo) commit() error {
	r.sum()
	err := r.write(r.buf)
	if cap(r.buf) > redoKept {
		r.buf = nil
	}
	return err
}

// clear makes it durable that there is nothing to do: the batch was refused.
func (r *redo) clear() error { return r.write(make([]byte, redoHead)) }

func (r *redo) write(b []byte) error {
	if _, err := r.f.WriteAt(b, 0); err != nil {
		return err
	}
	return unix.Fdatasync(int(r.f.Fd()))
}

// redone is a message of a recorded batch.
type redone struct{ subject, header, payload []byte }

// readRedo reads a record; ok is false where there is none: none was ever
// written, it was cleared, or a crash cut its writing off.
func readRedo(r io.ReaderAt) (base uint64, list []redone, ok bool, err error) {
	var head [redoHead]byte
	if _, err := r.ReadAt(head[:], 0); errors.Is(err, io.EOF) {
		return 0, nil, false, nil
	} else if err != nil {
		return 0, nil, false, err
	}
	size := binary.LittleEndian.Uint32(head[4:])
	if binary.LittleEndian.Uint32(head[:]) != redoMagic || size < 8 || size > 4*MaxUnitBytes {
		return 0, nil, false, nil
	}
	b := make([]byte, size)
	if _, err := r.ReadAt(b, redoHead); errors.Is(err, io.EOF) {
		return 0, nil, false, nil
	} else if err != nil {
		return 0, nil, false, err
	}
	if crc32.Checksum(b, castagnoli) != binary.LittleEndian.Uint32(head[8:]) {
		return 0, nil, false, nil
	}
	base, b = binary.LittleEndian.Uint64(b), b[8:]
	for len(b) > 0 {
		var m redone
		for _, p := range []*[]byte{&m.subject, &m.header, &m.payload} {
			if len(b) < 4 || uint64(binary.LittleEndian.Uint32(b)) > uint64(len(b)-4) {
				return 0, nil, false, nil
			}
			n := binary.LittleEndian.Uint32(b)
			*p, b = b[4:4+n:4+n], b[4+n:]
		}
		list = append(list, m)
	}
	return base, list, true, nil
}

// recover appends what a stream lacks of the batch that was under way when it was
// closed, however that was.
func (s *Store) recover(stream string) error {
	f, err := os.Open(s.redoFile(stream))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	base, list, ok, err := readRedo(f)
	if err != nil || !ok {
		return err
	}
	st, err := s.State(stream)
	if err != nil {
		return err
	}
	if st.LastSeq >= base+uint64(len(list)) {
		return nil // all of it is there
	}
	// Where the messages were lost whose successors the batch has, the stream may
	// even end before it.
	if begun, err := s.begun(stream, base, list, st.LastSeq); err != nil || !begun {
		return err
	}
	there := max(st.LastSeq, base) - base
	s.Logger().Info("a commit that was cut off is completed", "stream", stream, "messages", len(list), "there", there)
	for _, m := range list[there:] {
		var answer []byte
		err := s.with(func(c *conn) (err error) {
			answer, err = c.request(string(m.subject), m.payload, s.o.Deadline)
			return err
		})
		if err != nil {
			return err
		}
		if _, err := parseAck(frame{payload: answer}); err != nil {
			return err
		}
	}
	return nil
}

// begun reports whether the stream, which ends at end, has a part of the batch, or
// may have lost all of it: else the store has refused it.
func (s *Store) begun(stream string, base uint64, list []redone, end uint64) (bool, error) {
	if end > base {
		same := false
		err := s.Read(stream, base+1, base+1, func(m *Message) error {
			same = string(m.Subject) == string(list[0].subject)
			return nil
		})
		return same, err
	}
	for _, m := range list {
		expected, checked, err := expectedLast(m.header)
		if err != nil {
			return false, err
		}
		if !checked {
			continue
		}
		last, ok, err := s.last(stream, string(m.subject))
		if err != nil {
			return false, err
		}
		if ok && last.Seq != expected {
			return false, nil
		}
	}
	return true, nil
}

// expectedLast returns the sequence a header expects as its subject's last one.
func expectedLast(header []byte) (seq uint64, checked bool, err error) {
	for {
		name, value, rest, ok := NextHeader(header)
		if !ok {
			return 0, false, nil
		}
		if string(name) == ExpectedLast {
			seq, err = strconv.ParseUint(string(value), 10, 64)
			if err != nil {
				err = errs.E("jet.recover", errs.Internal, fmt.Errorf("expected sequence %q", value))
			}
			return seq, true, err
		}
		header = rest
	}
}

// ExpectedLast is the header of a message that is stored only if the last one of
// its subject has that sequence; 0: if there is none.
const ExpectedLast = "Nats-Expected-Last-Subject-Sequence"
