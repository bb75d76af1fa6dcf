package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/internal/server"
)

// target says which running Weir a command talks to.
type target struct {
	data      string // --data
	api       string // --api
	tokenFile string // --token-file
}

// dataDir is the data folder the command line or the environment names.
func (a *app) dataDir() string {
	switch {
	case a.target.data != "":
		return a.target.data
	case a.getenv("WEIR_DATA_DIR") != "":
		return a.getenv("WEIR_DATA_DIR")
	}
	return "./weir-data"
}

// ownerFlags adds the flags of commands that call the control API.
func (a *app) ownerFlags(c *cobra.Command) {
	c.PersistentFlags().StringVar(&a.target.api, "api", "", "control API, http://host:port (default $WEIR_API_URL, or from the data folder)")
	c.PersistentFlags().StringVar(&a.target.tokenFile, "token-file", "", "file with the admin token (default $WEIR_TOKEN_FILE, or admin.token of the data folder)")
}

// endpoints reads what the running Weir says of itself.
func (a *app) endpoints() (*server.Endpoints, error) {
	dir := a.dataDir()
	e, err := server.ReadEndpoints(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &exitError{exitUnreachable, fmt.Sprintf("no Weir runs on the data folder %s: start one with `weir dev`, or name its folder with --data", dir)}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, server.EndpointsFile), err)
	}
	// A Weir that was killed leaves its file behind.
	c, err := net.DialTimeout("tcp", strings.TrimPrefix(e.API, "http://"), 5*time.Second)
	if err != nil {
		return nil, &exitError{exitUnreachable, fmt.Sprintf("the Weir of the data folder %s (process %d) is not running any more: start one with `weir dev`", dir, e.PID)}
	}
	c.Close()
	return e, nil
}

// client returns a client of the control API.
func (a *app) client() (*control.Client, error) {
	url, token := a.target.api, a.target.tokenFile
	if url == "" && a.target.data == "" {
		url = a.getenv("WEIR_API_URL")
	}
	if token == "" && a.target.data == "" {
		token = a.getenv("WEIR_TOKEN_FILE")
	}
	if url == "" {
		e, err := a.endpoints()
		if err != nil {
			return nil, err
		}
		url = e.API
		if token == "" {
			token = e.TokenFile
		}
	}
	if token == "" {
		token = filepath.Join(a.dataDir(), control.TokenFile)
	}
	secret, err := control.ReadToken(token)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &exitError{exitFailure, fmt.Sprintf("the admin token %s does not exist: name it with --token-file, or the data folder with --data", token)}
	}
	if err != nil {
		return nil, err
	}
	return &control.Client{URL: url, Token: secret, HTTP: &http.Client{Transport: &http.Transport{
		DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
	}}}, nil
}

// unreachable adds to a failed call what may be done about it.
func (a *app) unreachable(err error) error {
	if !isDial(err) {
		return err
	}
	var op *net.OpError
	errors.As(err, &op)
	return &exitError{exitUnreachable, fmt.Sprintf("nothing answers at %s: Weir is not running there; start one with `weir dev`, or name its data folder with --data", op.Addr)}
}

// tlsFiles are the files of a TLS client.
type tlsFiles struct{ ca, cert, key string }

// config returns the client's side of TLS. name is what the server must be
// called in its certificate.
func (f tlsFiles) config(name string, alpn ...string) (*tls.Config, error) {
	c := &tls.Config{ServerName: name, MinVersion: tls.VersionTLS12, NextProtos: alpn}
	if f.ca != "" {
		pem, err := os.ReadFile(f.ca)
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", f.ca)
		}
	}
	if f.cert != "" {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return nil, fmt.Errorf("client certificate: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// printJSON writes v, indented, for -o json.
func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.stdout)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
