package auth

import (
	"context"
	"crypto/x509"
	"time"

	"github.com/weir-iot/weir/ingest/policy"
)

// Directory is what the registry knows of certificates, things and policies. It
// answers from memory, at any time, from many goroutines; what it returns is not
// changed any more.
type Directory interface {
	// Generation grows with each change of what the other methods return.
	Generation() uint64

	Certificate(id string) (*Certificate, bool)
	// CA returns a registered CA certificate by its id.
	CA(id string) (*CA509, bool)
	// CAsOf returns the registered CA certificates that have signed leaf, whatever
	// their status.
	CAsOf(leaf *x509.Certificate) []*CA509

	// ThingsOf returns what a certificate is attached to.
	ThingsOf(certificateID string) []Attachment
	Thing(name string) (*policy.Thing, bool)
	// PoliciesOf returns the default versions of the policies that are attached to
	// the certificate, to a group thing is in, or to a group above it. Without a
	// thing the groups are those of all things the certificate is attached to.
	PoliciesOf(certificateID, thing string) []Policy
}

// Status is that of a certificate, in the words of AWS IoT.
type Status string

const (
	Active            Status = "ACTIVE"
	Inactive          Status = "INACTIVE"
	Revoked           Status = "REVOKED"
	PendingTransfer   Status = "PENDING_TRANSFER"
	PendingActivation Status = "PENDING_ACTIVATION"
	RegisterInactive  Status = "REGISTER_INACTIVE"
)

// Certificate is a registered client certificate.
type Certificate struct {
	ID         string // SHA-256 of the DER form, hexadecimal
	Status     Status
	DER        []byte
	CA         string    // id of the CA it was registered with; "": none
	Registered time.Time // when
}

// CA509 is a registered CA certificate.
type CA509 struct {
	ID               string
	Status           Status // Active or Inactive
	Certificate      *x509.Certificate
	AutoRegistration bool   // just-in-time registration is on
	Template         string // name or body of its provisioning template; "": none
}

// Attachment is a thing a certificate is attached to.
type Attachment struct {
	Thing     string
	Exclusive bool // the thing has no other principal
}

// Policy is a policy document in force.
type Policy struct{ Name, Document string }

// Registrar registers certificates that their CA vouches for, the first time
// they are seen.
type Registrar interface {
	// RegisterPending registers leaf with the status PENDING_ACTIVATION. Error:
	// errs.Exists where it is registered already.
	RegisterPending(ctx context.Context, leaf *x509.Certificate, ca *CA509) error
}

// Provisioner registers a certificate whose CA has a template, and makes what the
// template says: all of it or nothing.
type Provisioner interface {
	// Provision's error errs.Exists says that leaf is registered already, and that
	// nothing was done.
	Provision(ctx context.Context, c *Connection, leaf *x509.Certificate, ca *CA509) error
}
