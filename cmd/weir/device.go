package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/internal/mqttclient"
	"github.com/weir-iot/weir/internal/server"
)

// deviceFlags say how pub and sub connect.
type deviceFlags struct {
	addr     string // --addr
	tls      bool
	files    tlsFiles
	clientID string
	version  string // "5", "3.1.1"
	timeout  time.Duration
}

func (f *deviceFlags) add(c *cobra.Command) {
	fl := c.Flags()
	fl.StringVar(&f.addr, "addr", "", "MQTT server, host:port (default: of the data folder's Weir)")
	fl.BoolVar(&f.tls, "tls", false, "connect with TLS (default where there is no plain port)")
	fl.StringVar(&f.files.ca, "cafile", "", "certificate authority of the server (default: of the data folder's Weir)")
	fl.StringVar(&f.files.cert, "cert", "", "client certificate (default: the owner's, of the data folder)")
	fl.StringVar(&f.files.key, "key", "", "key of the client certificate")
	fl.StringVarP(&f.clientID, "client-id", "i", "", "client id (default: a new one)")
	fl.StringVar(&f.version, "mqtt-version", "5", "5 or 3.1.1")
	fl.DurationVar(&f.timeout, "timeout", 10*time.Second, "how long to wait for an answer")
}

// resolve fills in what the flags leave open from the environment and from the
// running Weir.
func (a *app) resolve(f *deviceFlags) error {
	env := func(into *string, name string) {
		if *into == "" && a.target.data == "" {
			*into = a.getenv(name)
		}
	}
	env(&f.files.ca, "WEIR_CA_FILE")
	env(&f.files.cert, "WEIR_CERT_FILE")
	env(&f.files.key, "WEIR_KEY_FILE")
	if f.addr == "" && a.target.data == "" && a.getenv("WEIR_HOST") != "" {
		port := a.getenv("WEIR_MQTT_PORT")
		if f.tls || port == "" {
			f.tls, port = true, a.getenv("WEIR_MQTTS_PORT")
		}
		if port != "" {
			f.addr = net.JoinHostPort(a.getenv("WEIR_HOST"), port)
		}
	}
	if f.addr != "" {
		return nil
	}
	e, err := a.endpoints()
	if err != nil {
		return err
	}
	f.addr = e.MQTT
	if f.tls || f.addr == "" {
		f.tls, f.addr = true, e.MQTTS
	}
	if f.addr == "" {
		return &exitError{exitUnreachable, "the running Weir has no MQTT port: set listen.mqtts"}
	}
	f.fill(e)
	return nil
}

func (f *deviceFlags) fill(e *server.Endpoints) {
	if f.files.ca == "" {
		f.files.ca = e.CAFile
	}
	if f.files.cert == "" {
		f.files.cert, f.files.key = e.CertFile, e.KeyFile
	}
}

// connect opens an MQTT connection as the flags say.
func (a *app) connect(ctx context.Context, f *deviceFlags, onMessage func(*mqttclient.Message)) (*mqttclient.Client, error) {
	o := mqttclient.Options{ClientID: f.clientID, OnMessage: onMessage}
	switch f.version {
	case "5":
		o.Version = 5
	case "3.1.1":
		o.Version = 4
	default:
		return nil, usagef("--mqtt-version %s: expected 5 or 3.1.1", f.version)
	}
	if f.timeout <= 0 {
		return nil, usagef("--timeout: must be positive")
	}
	if err := a.resolve(f); err != nil {
		return nil, err
	}
	if _, _, err := net.SplitHostPort(f.addr); err != nil {
		return nil, usagef("--addr %s: expected host:port", f.addr)
	}
	if o.ClientID == "" {
		o.ClientID = "weir-" + strings.ToLower(rand.Text()[:8])
	}
	o.Addr = f.addr
	if f.tls {
		var err error
		if o.TLS, err = f.tlsConfig(); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	c, err := mqttclient.Connect(ctx, o)
	if err != nil && isDial(err) {
		return nil, &exitError{exitUnreachable, fmt.Sprintf("nothing answers at %s: %v", f.addr, err)}
	}
	return c, err
}

func (f *deviceFlags) tlsConfig() (*tls.Config, error) {
	return f.files.config(serverName(f.addr))
}

// serverName is what to ask the server's certificate for: its certificate names
// localhost, and Weir wants a name, so loopback addresses become it.
func serverName(addr string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() {
		return "localhost"
	}
	return host
}
