package server

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/weir-iot/weir/ingest/auth"
)

// The owner's own client certificate, in the data folder.
const ownerCertFile, ownerKeyFile = "client.crt", "client.key"

// ownerCertificate returns the files of a client certificate for the owner's
// own tools, and makes it where it is missing, of another authority, or ends
// within 30 days.
func ownerCertificate(ca *auth.CA, dir string, now time.Time) (certFile, keyFile string, err error) {
	certFile, keyFile = filepath.Join(dir, ownerCertFile), filepath.Join(dir, ownerKeyFile)
	if pair, err := tls.LoadX509KeyPair(certFile, keyFile); err == nil {
		leaf, err := x509.ParseCertificate(pair.Certificate[0])
		if err == nil && ca.VerifyClient(leaf) == nil && leaf.NotAfter.After(now.Add(30*24*time.Hour)) {
			return certFile, keyFile, nil
		}
	}
	cert, key, err := ca.IssueClient("weir-owner")
	if err != nil {
		return "", "", err
	}
	return certFile, keyFile, WriteClientCertificate(certFile, keyFile, cert, key)
}

// WriteClientCertificate writes a client certificate and its key, 0600.
func WriteClientCertificate(certFile, keyFile string, cert, key []byte) error {
	if err := os.WriteFile(keyFile, key, 0o600); err != nil {
		return err
	}
	return errors.Join(os.Chmod(keyFile, 0o600), os.WriteFile(certFile, cert, 0o644))
}
