package control

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// TokenFile is the name of the admin token's file in the data folder.
const TokenFile = "admin.token"

// OpenToken returns the admin token of the data folder dir, and makes it at the
// first start. The file has mode 0600; one that others can read is refused.
func OpenToken(dir string) (string, error) {
	path := filepath.Join(dir, TokenFile)
	token, err := ReadToken(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return token, err
	}
	token = rand.Text() + rand.Text()
	tmp, err := os.CreateTemp(dir, TokenFile+".*") // 0600
	if err != nil {
		return "", err
	}
	defer os.Remove(tmp.Name())
	if _, err := tmp.WriteString(token + "\n"); err != nil {
		tmp.Close()
		return "", err
	}
	if err := errors.Join(tmp.Sync(), tmp.Close()); err != nil {
		return "", err
	}
	return token, os.Rename(tmp.Name(), path)
}

// ReadToken reads the admin token from the file at path.
func ReadToken(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return "", fmt.Errorf("%s can be read by others (mode %04o): run chmod 600 on it", path, mode)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(b))
	if len(token) < 16 {
		return "", fmt.Errorf("%s holds no token: remove it and restart Weir to get a new one", path)
	}
	return token, nil
}
