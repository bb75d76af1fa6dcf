package mqtt

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-iot/weir/ingest/auth"
)

// lapsing is an Authenticator whose principals may stay a while, and that is
// told of their end.
type lapsing struct {
	expires atomic.Pointer[time.Time]
	mu      sync.Mutex // guards what follows
	made    map[string]*auth.Principal
	ended   map[string]int
}

func (k *lapsing) Authenticate(_ context.Context, c *auth.Connection) (*auth.Principal, error) {
	id := c.ClientID
	p := &auth.Principal{ID: "p", ClientID: id, Ended: func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.ended[id]++
	}}
	if e := k.expires.Load(); e != nil {
		p.Expires = *e
	}
	k.mu.Lock()
	k.made[id] = p
	k.mu.Unlock()
	return p, nil
}

func (k *lapsing) endOf(id string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.ended[id]
}

// notHere denies one client id to connect.
type notHere struct{ auth.AllowAll }

func (notHere) May(_ *auth.Principal, a auth.Action, resource string) bool {
	return a != auth.Connect || resource != "denied"
}

func TestConnectionsEndWithTheirCredentials(t *testing.T) {
	k := &lapsing{made: map[string]*auth.Principal{}, ended: map[string]int{}}
	var shift atomic.Int64
	r := start(t, func(o *Options) {
		o.Authenticator, o.Authorizer = k, notHere{}
		o.Safety.KeepAliveTick = time.Millisecond
		o.Now = func() time.Time { return time.Now().Add(time.Duration(shift.Load())) }
	})
	at := time.Now().Add(30 * time.Second) // less than one and a half keep-alives
	stays := r.connect(5, "stays")
	cut := r.connect(4, "cut")
	k.expires.Store(&at)
	goes5, goes4 := r.connect(5, "goes5"), r.connect(4, "goes4")
	goes5.ping()
	goes4.ping()
	if k.endOf("goes5") != 0 {
		t.Error("ended before its time")
	}
	if !r.s.DisconnectSession(k.made["cut"]) {
		t.Error("a session that is there is not found")
	}
	cut.closed()
	shift.Store(int64(31 * time.Second))
	goes5.disconnected(codeNotAuthorized)
	goes4.closed()
	stays.ping()
	for _, id := range []string{"cut", "goes5", "goes4"} {
		eventually(t, id+" is told of its end", func() bool { return k.endOf(id) == 1 })
	}
	if r.s.DisconnectSession(k.made["cut"]) {
		t.Error("a session that has ended is found")
	}
	if k.endOf("stays") != 0 {
		t.Error("one without an end has ended")
	}
	denied := r.dial()
	denied.send(connectPacket(4, "denied", 2, 60, nil))
	if code, _ := denied.connack(); code != 5 {
		t.Errorf("CONNACK %d", code)
	}
	eventually(t, "who was refused is told of its end", func() bool { return k.endOf("denied") == 1 })
}
