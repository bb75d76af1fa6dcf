package domain

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ocsp"
)

// A folder of certificates has, for each NAME:
//
//	NAME.crt (or .pem), NAME.key and, to be stapled, NAME.ocsp
//	NAME/fullchain.pem and NAME/privkey.pem, as certbot and its like write them
//	NAME/tls.crt and NAME/tls.key, as Kubernetes mounts them; NAME/ocsp.der with both
//
// The chain is PEM, leaf first; the response DER.

// pair is one certificate with what belongs to it.
type pair struct {
	name  string
	cert  *tls.Certificate
	until time.Time // when the stapled response lapses; zero: it says nothing of that
	plain *tls.Certificate
}

// certificate returns what to show now: without a response that has lapsed.
func (p *pair) certificate(now time.Time) *tls.Certificate {
	if len(p.cert.OCSPStaple) > 0 && !p.until.IsZero() && now.After(p.until) {
		return p.plain
	}
	return p.cert
}

// files are what a pair is read from.
type files struct{ name, cert, key, ocsp string }

// list finds the pairs of dir, and a text that changes when one of them does.
func list(dir string) (all []files, state string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, "", err
	}
	var b strings.Builder
	stat := func(path string) bool {
		info, err := os.Stat(path)
		if err != nil || info.IsDir() {
			return false
		}
		fmt.Fprintf(&b, "%s %d %d %o\n", path, info.Size(), info.ModTime().UnixNano(), info.Mode())
		return true
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		base, ext := strings.TrimSuffix(e.Name(), filepath.Ext(e.Name())), filepath.Ext(e.Name())
		if (ext == ".crt" || ext == ".pem") && !strings.HasPrefix(base, ".") {
			f := files{base, path, filepath.Join(dir, base+".key"), filepath.Join(dir, base+".ocsp")}
			if stat(f.cert) && stat(f.key) {
				if !stat(f.ocsp) {
					f.ocsp = ""
				}
				all = append(all, f)
			}
			continue
		}
		if info, err := os.Stat(path); err != nil || !info.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		for _, names := range [][2]string{{"fullchain.pem", "privkey.pem"}, {"tls.crt", "tls.key"}} {
			f := files{e.Name(), filepath.Join(path, names[0]), filepath.Join(path, names[1]), filepath.Join(path, "ocsp.der")}
			if stat(f.cert) && stat(f.key) {
				if !stat(f.ocsp) {
					f.ocsp = ""
				}
				all = append(all, f)
				break
			}
		}
	}
	return all, b.String(), nil
}

// read reads a pair, and says what is wrong with it.
func (f files) read(now time.Time) (*pair, error) {
	info, err := os.Stat(f.key)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o007 != 0 {
		return nil, fmt.Errorf("%s can be read by everybody (mode %o): make it 0600", f.key, info.Mode().Perm())
	}
	certPEM, err := readFile(f.cert)
	if err != nil {
		return nil, err
	}
	keyPEM, err := readFile(f.key)
	if err != nil {
		return nil, err
	}
	c, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.cert, err)
	}
	if c.Leaf, err = x509.ParseCertificate(c.Certificate[0]); err != nil {
		return nil, fmt.Errorf("%s: %w", f.cert, err)
	}
	switch {
	case now.After(c.Leaf.NotAfter):
		return nil, fmt.Errorf("%s has expired on %s", f.cert, c.Leaf.NotAfter.Format(time.RFC3339))
	case !slices.Contains(c.Leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) && len(c.Leaf.ExtKeyUsage) > 0:
		return nil, fmt.Errorf("%s is not for servers", f.cert)
	}
	plain := c
	p := &pair{name: f.name, cert: &c, plain: &plain}
	if f.ocsp == "" {
		return p, nil
	}
	der, err := readFile(f.ocsp)
	if err != nil {
		return nil, err
	}
	var issuer *x509.Certificate
	if len(c.Certificate) > 1 {
		issuer, _ = x509.ParseCertificate(c.Certificate[1])
	}
	r, err := ocsp.ParseResponseForCert(der, c.Leaf, issuer)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.ocsp, err)
	}
	c.OCSPStaple, p.until = der, r.NextUpdate
	return p, nil
}

func readFile(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxCertificate {
		return nil, fmt.Errorf("%s is over %d bytes", name, maxCertificate)
	}
	b, err := os.ReadFile(name)
	return bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")), err
}

// load reads all pairs of dir. Of a pair that cannot be read the one of before
// is kept, for it may be half written.
func load(dir string, before []*pair, now time.Time) (pairs []*pair, state string, problems error) {
	all, state, err := list(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", nil
	}
	if err != nil {
		return before, "", err
	}
	for _, f := range all {
		p, err := f.read(now)
		if err != nil {
			problems = errors.Join(problems, err)
			i := slices.IndexFunc(before, func(p *pair) bool { return p.name == f.name })
			if i < 0 {
				continue
			}
			p = before[i]
		}
		pairs = append(pairs, p)
	}
	return pairs, state, problems
}
