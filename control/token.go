package control

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
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
	return token, writeSecret(path, token+"\n")
}

// ReadToken reads the admin token from the file at path.
func ReadToken(path string) (string, error) {
	text, err := readSecret(path)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(text)
	if len(token) < 16 {
		return "", fmt.Errorf("%s holds no token: remove it and restart Weir to get a new one", path)
	}
	return token, nil
}
