package registry

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/weir-iot/weir/internal/errs"
)

// KeyType is the kind of key Weir makes for a device.
type KeyType string

const (
	RSA2048   KeyType = "RSA_2048"
	ECDSAP256 KeyType = "ECDSA_P256"
)

// KeyPair is a key made for a device, PEM. The private one is kept nowhere.
type KeyPair struct {
	Public  string `json:"PublicKey"`
	Private string `json:"PrivateKey"`
}

// String keeps the private key out of every %v.
func (k KeyPair) String() string { return "key pair" }

// LogValue keeps the private key out of every log.
func (k KeyPair) LogValue() slog.Value { return slog.StringValue(k.String()) }

// keyMaker makes keys. An RSA key takes a core for a tenth of a second, an EC key
// a five-thousandth of that: so RSA keys are made ahead where devices may ask for
// them, few are made at a time, and few wait for theirs.
type keyMaker struct {
	ahead   chan *rsa.PrivateKey // as many as Options.KeysAhead
	making  chan struct{}        // one core stays free where there are several
	waiting atomic.Int64
}

const (
	// maxWaiting bounds who waits for an RSA key to be made: the last of them
	// gets it within some seconds.
	maxWaiting = 32

	// While keys are made ahead, this many times as long as one takes nothing is
	// made: who has asked for something goes first.
	restAhead = 3

	// lookEvery is how often it is looked whether keys are wanted.
	lookEvery = time.Second
)

func newKeyMaker(ahead int) *keyMaker {
	return &keyMaker{ahead: make(chan *rsa.PrivateKey, ahead), making: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)-1))}
}

// makeAhead makes RSA keys ahead as many as there is room for while wanted says so, until ctx ends.
func (m *keyMaker) makeAhead(ctx context.Context, wanted func() bool) {
	rest := time.NewTimer(0)
	defer rest.Stop()
	for {
		select {
		case <-rest.C:
		case <-ctx.Done():
			return
		}
		if len(m.ahead) == cap(m.ahead) || m.waiting.Load() > 0 || !wanted() {
			rest.Reset(lookEvery)
			continue
		}
		began := time.Now()
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			rest.Reset(lookEvery)
			continue // who asks for a key is told of it
		}
		select {
		case m.ahead <- k:
		default:
		}
		rest.Reset(restAhead * time.Since(began))
	}
}

// rsa returns a key made ahead, or makes one.
// Errors: errs.Quota (too many wait), errs.Timeout.
func (m *keyMaker) rsa(ctx context.Context) (*rsa.PrivateKey, error) {
	const op = "registry.makeKeys"
	select {
	case k := <-m.ahead:
		return k, nil
	default:
	}
	defer m.waiting.Add(-1)
	if m.waiting.Add(1) > maxWaiting {
		return nil, errs.Errorf(op, errs.Quota, "%d others wait for an RSA key to be made: ask again later, or send a certificate signing request", maxWaiting)
	}
	select {
	case k := <-m.ahead:
		return k, nil
	case m.making <- struct{}{}:
		defer func() { <-m.making }()
		return rsa.GenerateKey(rand.Reader, 2048)
	case <-ctx.Done():
		return nil, errs.E(op, errs.Timeout, ctx.Err())
	}
}

// pair returns a new key; "" is RSA2048.
func (m *keyMaker) pair(ctx context.Context, typ KeyType) (crypto.PublicKey, *KeyPair, error) {
	var signer crypto.Signer
	var block *pem.Block
	switch typ {
	case "", RSA2048:
		k, err := m.rsa(ctx)
		if err != nil {
			return nil, nil, err
		}
		signer, block = k, &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k)}
	case ECDSAP256:
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		der, err := x509.MarshalECPrivateKey(k)
		if err != nil {
			return nil, nil, err
		}
		signer, block = k, &pem.Block{Type: "EC PRIVATE KEY", Bytes: der}
	default:
		return nil, nil, invalid("%q is no type of key: %s or %s", clip(string(typ)), RSA2048, ECDSAP256)
	}
	der, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return nil, nil, err
	}
	return signer.Public(), &KeyPair{
		Public:  string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
		Private: string(pem.EncodeToMemory(block)),
	}, nil
}

// enrols reports whether there is a template by which devices may ask for keys.
func (r *Registry) enrols() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, row := range r.templates.rows {
		if t := row.v; t != nil && t.Enabled && t.Type == FleetProvisioning {
			return true
		}
	}
	return false
}
