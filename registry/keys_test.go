package registry

import (
	"context"
	"crypto/rsa"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-iot/weir/internal/errs"
)

// Keys are made ahead while they are wanted, as many as there is room for; each
// is given once.
func TestKeysAhead(t *testing.T) {
	m := newKeyMaker(2)
	var wanted atomic.Bool
	ctx, cancel := context.WithCancel(t.Context())
	var making sync.WaitGroup
	looked := make(chan struct{}, 1)
	making.Go(func() {
		m.makeAhead(ctx, func() bool {
			select {
			case looked <- struct{}{}:
			default:
			}
			return wanted.Load()
		})
	})
	<-looked
	if len(m.ahead) > 0 {
		t.Error("a key that nobody wants")
	}
	wanted.Store(true)
	for end := time.Now().Add(2 * time.Minute); len(m.ahead) < 2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d keys are there", len(m.ahead))
		}
	}
	wanted.Store(false)
	seen := map[string]bool{}
	for range 3 { // the third is made when it is asked for
		pub, pair, err := m.pair(t.Context(), RSA2048)
		if err != nil || pub.(*rsa.PublicKey).N.BitLen() != 2048 || seen[pair.Private] {
			t.Fatal(pub, err)
		}
		seen[pair.Private] = true
	}
	cancel()
	making.Wait()
}

// However many ask for RSA keys, few wait for theirs, and EC keys go on.
func TestKeysBounded(t *testing.T) {
	m := newKeyMaker(0)
	for range cap(m.making) {
		m.making <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var waiting sync.WaitGroup
	for range maxWaiting {
		waiting.Go(func() {
			if _, _, err := m.pair(ctx, RSA2048); !errs.Is(err, errs.Timeout) {
				t.Error(err)
			}
		})
	}
	for end := time.Now().Add(time.Minute); m.waiting.Load() < maxWaiting; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nobody waits")
		}
	}
	if _, _, err := m.pair(ctx, ""); !errs.Is(err, errs.Quota) {
		t.Error(err)
	}
	if _, _, err := m.pair(ctx, ECDSAP256); err != nil {
		t.Error(err)
	}
	cancel()
	waiting.Wait()
	if n := m.waiting.Load(); n != 0 {
		t.Errorf("%d wait", n)
	}
}
