package custom

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Authorizer is one as the owner made it.
type Authorizer struct {
	Name            string
	Function        string            // ARN or name
	Active          bool              // else it lets nobody in
	SigningDisabled bool              // tokens need no signature
	TokenKeyName    string            // where the token is; needed where tokens are signed
	PublicKeys      map[string]string // PEM, RSA of at least 2,048 bits, by name
	CacheHTTP       bool              // answers hold for further requests on the same HTTPS connection
}

// Store finds authorizers. It answers from memory.
type Store interface {
	Authorizer(name string) (*Authorizer, bool)
	// Default returns the name of the authorizer for clients that name none, ""
	// for none, and whether clients may name another. domain is the server name
	// the client asked for.
	Default(domain string) (name string, override bool)
}

const minKeyBits = 2048

// CheckKey reports why text is no public key tokens may be signed for.
func CheckKey(text string) error {
	_, err := publicKey(text)
	return err
}

func publicKey(text string) (*rsa.PublicKey, error) {
	b, _ := pem.Decode([]byte(text))
	if b == nil {
		return nil, errors.New("the public key is not PEM")
	}
	k, err := x509.ParsePKIXPublicKey(b.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the public key: %w", err)
	}
	r, ok := k.(*rsa.PublicKey)
	if !ok {
		return nil, errors.New("the public key is not RSA")
	}
	if r.N.BitLen() < minKeyBits {
		return nil, fmt.Errorf("the public key has %d bits, must have at least %d", r.N.BitLen(), minKeyBits)
	}
	return r, nil
}

// verify checks the signature of a token: RSA, PKCS #1 v1.5, SHA-256, in Base64.
func (a *Authorizer) verify(token, signature string) error {
	switch {
	case a.TokenKeyName == "" || len(a.PublicKeys) == 0:
		return errors.New("the authorizer wants signed tokens and has no key or no name for them")
	case token == "":
		return errors.New("the token is missing")
	case signature == "":
		return errors.New("the token's signature is missing")
	case len(token) > maxToken || len(signature) > maxSignature:
		return errors.New("the token or its signature is too long")
	}
	if strings.Contains(signature, "%") { // encoded in a header, as browsers must
		signature, _ = unescape(signature)
	}
	sig, err := base64.StdEncoding.DecodeString(signature)
	if err != nil {
		return errors.New("the token's signature is not Base64")
	}
	sum := sha256.Sum256([]byte(token))
	for _, name := range slices.Sorted(maps.Keys(a.PublicKeys)) {
		k, err := publicKey(a.PublicKeys[name])
		if err != nil {
			return err
		}
		if rsa.VerifyPKCS1v15(k, crypto.SHA256, sum[:], sig) == nil {
			return nil
		}
	}
	return errors.New("the token's signature is not of any of the authorizer's keys")
}
