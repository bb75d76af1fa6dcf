package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"
)

// client is as little of an MQTT 3.1.1 client as a measurement needs: it must
// cost less than what it measures.
type client struct {
	c net.Conn
	r *bufio.Reader
	w *bufio.Writer
}

func newClient(conn net.Conn) *client {
	return &client{c: conn, r: bufio.NewReaderSize(conn, 16<<10), w: bufio.NewWriterSize(conn, 16<<10)}
}

func dial(addr, id string) (*client, error) {
	c, _, err := connect(addr, id, 2)
	return c, err
}

// connect connects with the flags of a CONNECT: 2 for a clean session, 0 for
// one that is kept. present tells that there was one.
func connect(addr, id string, flags byte) (_ *client, present bool, err error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, false, err
	}
	return connectOn(conn, id, flags)
}

// connectOn is connect on a connection that is there.
func connectOn(conn net.Conn, id string, flags byte) (_ *client, present bool, err error) {
	c := &client{c: conn, r: bufio.NewReaderSize(conn, 16<<10), w: bufio.NewWriterSize(conn, 16<<10)}
	body := []byte{0, 4, 'M', 'Q', 'T', 'T', 4, flags, 4, 0} // keep-alive 1024 s
	body = appendText(body, id)
	if _, err := conn.Write(append([]byte{0x10, byte(len(body))}, body...)); err != nil {
		return nil, false, err
	}
	var ack [4]byte
	if _, err := io.ReadFull(c.r, ack[:]); err != nil {
		return nil, false, err
	}
	if ack[0] != 0x20 || ack[3] != 0 {
		return nil, false, fmt.Errorf("CONNECT refused: % x", ack)
	}
	return c, ack[2] == 1, nil
}

func appendText(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

func appendLength(b []byte, n int) []byte {
	for n >= 128 {
		b = append(b, byte(n)|128)
		n >>= 7
	}
	return append(b, byte(n))
}

func (c *client) subscribe(filter string, qos byte) error { return c.subscribeAll(qos, filter) }

func (c *client) subscribeAll(qos byte, filters ...string) error {
	body := []byte{0, 1}
	for _, f := range filters {
		body = append(appendText(body, f), qos)
	}
	if _, err := c.c.Write(append(appendLength([]byte{0x82}, len(body)), body...)); err != nil {
		return err
	}
	head, body, err := c.packet()
	if err == nil && (head != 0x90 || slices.Max(body[2:]) > 1) {
		err = fmt.Errorf("SUBSCRIBE refused: %x % x", head, body)
	}
	return err
}

func (c *client) packet() (head byte, body []byte, err error) {
	if head, err = c.r.ReadByte(); err != nil {
		return
	}
	n, err := binary.ReadUvarint(c.r)
	if err != nil {
		return
	}
	body = make([]byte, n)
	_, err = io.ReadFull(c.r, body)
	return
}

// publish sends what next gives until done is closed or next gives no topic,
// with at most window messages unacknowledged, and returns when all are
// acknowledged. PUBACKs come in order; acked is told how long each took. eager
// writes each message at once, otherwise as many as the window holds.
func (c *client) publish(window int, eager bool, done <-chan struct{}, next func(n int) (string, []byte), acked func(time.Duration)) error {
	defer c.c.Close()
	slots := make(chan struct{}, window) // one for each message in flight
	sent := make(chan time.Time, window)
	failed := make(chan error, 1)
	go func() {
		var id uint16
		for at := range sent {
			var p [4]byte
			if _, err := io.ReadFull(c.r, p[:]); err != nil {
				failed <- err
				return
			}
			if id = id%0xffff + 1; p[0] != 0x40 || binary.BigEndian.Uint16(p[2:]) != id {
				failed <- fmt.Errorf("expected the PUBACK of %d, got % x", id, p)
				return
			}
			acked(time.Since(at))
			<-slots
		}
		failed <- nil
	}()
	var b []byte
	var id uint16
	for n := 0; ; n++ {
		select {
		case <-done:
			close(sent)
			return errors.Join(c.w.Flush(), <-failed)
		default:
		}
		topic, payload := next(n)
		if topic == "" {
			if err := c.w.Flush(); err != nil {
				return err
			}
			close(sent)
			return <-failed
		}
		id = id%0xffff + 1
		b = append(b[:0], 0x32)
		b = appendLength(b, 4+len(topic)+len(payload))
		b = binary.BigEndian.AppendUint16(appendText(b, topic), id)
		b = append(b, payload...)
		// What is written goes out before there is a reason to wait.
		if len(slots) == window || len(b) > c.w.Available() {
			if err := c.w.Flush(); err != nil {
				return err
			}
		}
		select {
		case slots <- struct{}{}:
		case err := <-failed:
			return err
		}
		sent <- time.Now()
		if _, err := c.w.Write(b); err != nil {
			return err
		}
		if eager || len(slots) == window {
			if err := c.w.Flush(); err != nil {
				return err
			}
		}
	}
}

// receive acknowledges what is delivered until the connection ends.
func (c *client) receive(f func(payload []byte)) {
	c.take(func(_ bool, payload []byte) bool { f(payload); return true })
}

// take is receive until f says that it has enough; dup is the flag of a
// delivery that may be a repetition. An acknowledgement waits for what has been
// read already.
func (c *client) take(f func(dup bool, payload []byte) bool) {
	for {
		head, body, err := c.packet()
		if err != nil {
			return
		}
		if head>>4 != 3 {
			continue
		}
		n := 2 + int(binary.BigEndian.Uint16(body))
		if head&6 != 0 {
			if _, err := c.w.Write([]byte{0x40, 2, body[n], body[n+1]}); err != nil {
				return
			}
			n += 2
			if c.r.Buffered() == 0 && c.w.Flush() != nil {
				return
			}
		}
		if !f(head&8 != 0, body[n:]) {
			c.w.Flush()
			return
		}
	}
}
