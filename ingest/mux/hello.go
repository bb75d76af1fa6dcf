package mux

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"syscall"
)

var errRead = errors.New("the ClientHello has been read")

// hello reads the ClientHello of nc and returns the names it offers, and the
// connection with the ClientHello still to be read. Nothing is written to nc.
func hello(ctx context.Context, nc net.Conn) (protocols []string, _ net.Conn, err error) {
	p := &recorder{Conn: nc}
	got := false
	err = tls.Server(p, &tls.Config{
		MinVersion: tls.VersionTLS12, // not negotiated here
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			got, protocols = true, h.SupportedProtos
			return nil, errRead
		},
	}).HandshakeContext(ctx)
	if !got {
		return nil, nil, err
	}
	return protocols, &replay{Conn: nc, first: p.read.Bytes()}, nil
}

// recorder keeps what is read and swallows what is written: the alert that the
// TLS library would send.
type recorder struct {
	net.Conn
	read bytes.Buffer
}

func (r *recorder) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.read.Write(p[:n])
	return n, err
}

func (r *recorder) Write(p []byte) (int, error) { return len(p), nil }

// replay is a connection that gives what was read of it once more.
type replay struct {
	net.Conn
	first []byte
}

func (r *replay) Read(p []byte) (int, error) {
	if len(r.first) == 0 {
		return r.Conn.Read(p)
	}
	n := copy(p, r.first)
	if r.first = r.first[n:]; len(r.first) == 0 {
		r.first = nil
	}
	return n, nil
}

// SyscallConn implements syscall.Conn, for who writes without waiting.
func (r *replay) SyscallConn() (syscall.RawConn, error) {
	if c, ok := r.Conn.(syscall.Conn); ok {
		return c.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// CloseWrite says that nothing follows.
func (r *replay) CloseWrite() error {
	if c, ok := r.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}
