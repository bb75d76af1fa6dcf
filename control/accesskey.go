package control

import (
	"bufio"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// AccessKeyFile is the name of the owner's access key in the data folder. It
// has the form of the AWS clients' credentials file.
const AccessKeyFile = "aws-credentials"

// OwnerKey signs requests to the AWS APIs.
type OwnerKey struct{ ID, Secret string }

// String keeps the secret out of every %v.
func (k OwnerKey) String() string { return k.ID }

// OpenAccessKey returns the owner's access key of the data folder dir, and makes
// it at the first start. The file has mode 0600; one that others can read is
// refused.
func OpenAccessKey(dir string) (OwnerKey, error) {
	path := filepath.Join(dir, AccessKeyFile)
	key, err := ReadAccessKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	var secret [30]byte
	_, _ = rand.Read(secret[:]) // never fails
	key = OwnerKey{ID: "AKIA" + rand.Text()[:16], Secret: base64.StdEncoding.EncodeToString(secret[:])}
	text := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", key.ID, key.Secret)
	return key, writeSecret(path, text)
}

// ReadAccessKey reads the access key from the file at path.
func ReadAccessKey(path string) (OwnerKey, error) {
	text, err := readSecret(path)
	if err != nil {
		return OwnerKey{}, err
	}
	var k OwnerKey
	for s := bufio.NewScanner(strings.NewReader(text)); s.Scan(); {
		name, value, _ := strings.Cut(s.Text(), "=")
		switch strings.TrimSpace(name) {
		case "aws_access_key_id":
			k.ID = strings.TrimSpace(value)
		case "aws_secret_access_key":
			k.Secret = strings.TrimSpace(value)
		}
	}
	if len(k.ID) < 16 || len(k.Secret) < 32 {
		return OwnerKey{}, fmt.Errorf("%s holds no access key: remove it and restart Weir to get a new one", path)
	}
	return k, nil
}

// writeSecret writes a file of mode 0600, whole or not at all.
func writeSecret(path, text string) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if _, err := tmp.WriteString(text); err != nil {
		tmp.Close()
		return err
	}
	if err := errors.Join(tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// readSecret reads a file that only its owner can read.
func readSecret(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return "", fmt.Errorf("%s can be read by others (mode %04o): run chmod 600 on it", path, mode)
	}
	b, err := os.ReadFile(path)
	return string(b), err
}
