// Package domain is the names Weir answers to on its TLS ports, and what goes
// with each: the server certificate, the TLS policy, the default authorizer.
//
// It comes first in a message's way: the server name (SNI) a client sends picks
// the certificate it is shown, before anything is known of the client. A name
// that is not Weir's is refused, and so is a client that sends none. Certificates
// are Weir's own, made by its authority, or files of the owner's: a folder that is
// read again when it changes, so that an ACME client can write there.
package domain
