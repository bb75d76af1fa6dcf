// Package seal encrypts secrets that Weir has to keep: with AES-256-GCM under a
// key of its own, in a file only the owner can read.
//
// In a message's way it has no part; the registry keeps the secrets of access
// keys with it, which signatures are checked against.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const keySize = 32

// Box seals and opens. It is safe for concurrent use.
type Box struct{ aead cipher.AEAD }

// Open returns the Box of the key in file, which is made, mode 0600, where it
// does not exist. A file others can read is refused.
func Open(file string) (*Box, error) {
	key, err := read(file)
	if errors.Is(err, fs.ErrNotExist) {
		if err = create(file); err == nil || errors.Is(err, fs.ErrExist) {
			key, err = read(file)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("sealing key: %w", err)
	}
	return New(key)
}

// New returns the Box of a key of 32 bytes.
func New(key []byte) (*Box, error) {
	if len(key) != keySize {
		return nil, fmt.Errorf("a sealing key has %d bytes, this one has %d", keySize, len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return &Box{aead}, nil
}

func read(file string) ([]byte, error) {
	info, err := os.Lstat(file)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", file)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others (mode %o): make it 0600", file, info.Mode().Perm())
	}
	key, err := os.ReadFile(file)
	if err == nil && len(key) != keySize {
		err = fmt.Errorf("%s is damaged: it has %d bytes, not %d; without it the secrets sealed with it cannot be read", file, len(key), keySize)
	}
	return key, err
}

// create leaves a whole key or none, and never replaces one.
func create(file string) error {
	key := make([]byte, keySize)
	rand.Read(key)
	dir := filepath.Dir(file)
	f, err := os.CreateTemp(dir, "."+filepath.Base(file)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(key)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), file); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Seal encrypts plain. What is sealed for one name cannot be opened for another.
func (b *Box) Seal(name string, plain []byte) []byte {
	return b.aead.Seal(nil, nil, plain, []byte(name))
}

var errOpen = errors.New("seal: not sealed with this key for this name, or changed")

// Open returns what Seal was given.
func (b *Box) Open(name string, sealed []byte) ([]byte, error) {
	plain, err := b.aead.Open(nil, nil, sealed, []byte(name))
	if err != nil {
		return nil, errOpen
	}
	return plain, nil
}
