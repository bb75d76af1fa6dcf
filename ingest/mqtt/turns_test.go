package mqtt

import (
	"net"
	"testing"
)

// Who waits for its client lets others work; who has begun goes before who has
// not.
func TestTurns(t *testing.T) {
	ts := &turns{work: 1, room: 2}
	order := make(chan string, 3)
	stalled, client := net.Pipe()
	defer client.Close()
	one := &turnConn{Conn: stalled, turns: ts}
	one.begin()
	read := make(chan error, 1)
	go func() { // waits for its client
		_, err := one.Read(make([]byte, 1))
		order <- "begun"
		one.end()
		read <- err
	}()
	two := &turnConn{turns: ts}
	two.begin() // gets the turn of the one that stalls
	three := make(chan struct{})
	go func() {
		c := &turnConn{turns: ts}
		c.begin()
		order <- "new"
		c.end()
		close(three)
	}()
	waits := func(begun, new int) func() bool {
		return func() bool {
			ts.mu.Lock()
			defer ts.mu.Unlock()
			return len(ts.begun) == begun && len(ts.new) == new
		}
	}
	eventually(t, "a new one waits", waits(0, 1))
	client.Write([]byte{1})
	eventually(t, "the first one too", waits(1, 1))
	two.end()
	if err := <-read; err != nil {
		t.Fatal(err)
	}
	<-three
	if first := <-order; first != "begun" {
		t.Error("first came", first)
	}
	if ts.work != 1 || ts.room != 2 {
		t.Error(ts.work, "turns and room for", ts.room)
	}
	// Who waits for long keeps nobody out.
	full := &turns{work: 1, room: 1}
	stalled, client = net.Pipe()
	defer client.Close()
	one = &turnConn{Conn: stalled, turns: full}
	one.begin()
	go func() {
		_, err := one.Read(make([]byte, 1))
		one.end()
		read <- err
	}()
	late := &turnConn{turns: full}
	late.begin()
	late.end()
	client.Write([]byte{1})
	if err := <-read; err != nil {
		t.Fatal(err)
	}
	if full.work != 1 || full.room != 1 {
		t.Error(full.work, "turns and room for", full.room)
	}
}
