package registry

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"strings"
	"time"

	"github.com/weir-iot/weir/internal/errs"
)

// AccessKey is a credential for signed requests (SigV4).
type AccessKey struct {
	ID          string    `json:"accessKeyId"` // AKIA and 16 characters
	Status      Status    `json:"status"`      // ACTIVE or INACTIVE
	Description string    `json:"description,omitempty"`
	Policy      string    `json:"policyDocument"` // what it may; any service's actions
	Sealed      []byte    `json:"sealed"`         // the secret: a signature can only be checked with it
	CreatedAt   time.Time `json:"creationDate"`
	ModifiedAt  time.Time `json:"lastModifiedDate"`
}

// CreateAccessKey creates an access key and returns its secret, which is shown
// this once.
func (r *Registry) CreateAccessKey(ctx context.Context, policy, description string) (*AccessKey, string, error) {
	const op = "registry.CreateAccessKey"
	if r.o.Seal == nil {
		return nil, "", errs.E(op, errs.NotImplemented, errNoSealer)
	}
	if err := r.checkDocument(policy); err != nil {
		return nil, "", wrap(op, err)
	}
	if err := checkDescription("the description of an access key", description, 500); err != nil {
		return nil, "", wrap(op, err)
	}
	id, secret := newAccessKeyID("AKIA"), newSecret()
	return r.ImportAccessKey(ctx, id, secret, policy, description)
}

// ImportAccessKey keeps an access key made elsewhere, such as the one of a
// development server.
func (r *Registry) ImportAccessKey(ctx context.Context, id, secret, policy, description string) (*AccessKey, string, error) {
	const op = "registry.ImportAccessKey"
	if r.o.Seal == nil {
		return nil, "", errs.E(op, errs.NotImplemented, errNoSealer)
	}
	if err := accessKeyIDRule.check(id); err != nil {
		return nil, "", wrap(op, err)
	}
	if len(secret) < 16 || len(secret) > 128 {
		return nil, "", wrap(op, invalid("a secret has 16 to 128 characters"))
	}
	sealed := r.o.Seal.Seal(sealName(id), []byte(secret))
	k, err := change(ctx, r, "CreateAccessKey", func(tx *Tx) (*AccessKey, error) {
		if err := r.checkDocument(policy); err != nil {
			return nil, err
		}
		if get(tx, r.accessKeys, id) != nil {
			return nil, &Error{Code: Exists, Message: "access key " + id + " exists already", ID: id, ARN: r.AccessKeyARN(id)}
		}
		k := &AccessKey{ID: id, Status: Active, Description: description, Policy: policy, Sealed: sealed, CreatedAt: tx.now, ModifiedAt: tx.now}
		put(tx, r.accessKeys, id, k)
		return k, nil
	})
	if err != nil {
		return nil, "", err
	}
	return k, secret, nil
}

func sealName(id string) string { return "access-key/" + id }

func newAccessKeyID(prefix string) string {
	var b [10]byte
	rand.Read(b[:])
	return prefix + base32.StdEncoding.EncodeToString(b[:])
}

func newSecret() string {
	var b [30]byte
	rand.Read(b[:])
	return base64.StdEncoding.EncodeToString(b[:])
}

// AccessKey returns an access key. Error: errs.NotFound.
func (r *Registry) AccessKey(id string) (*AccessKey, error) {
	return read(r, "AccessKey", func(tx *Tx) (*AccessKey, error) { return tx.accessKey(id) })
}

func (tx *Tx) accessKey(id string) (*AccessKey, error) {
	if err := accessKeyIDRule.check(id); err != nil {
		return nil, err
	}
	if k := get(tx, tx.r.accessKeys, id); k != nil {
		return k, nil
	}
	return nil, fail(NotFound, "there is no access key %s", id)
}

// AccessKeys lists access keys by id.
func (r *Registry) AccessKeys(p Page) ([]*AccessKey, string, error) {
	return readPage(r, "AccessKeys", func(*Tx) ([]*AccessKey, string, error) {
		return pageOf(&r.accessKeys.order, p, "access keys", false, every[*AccessKey])
	})
}

// UpdateAccessKey sets status ("": as it is) and policy document ("": as it is).
func (r *Registry) UpdateAccessKey(ctx context.Context, id string, status Status, policy string) (*AccessKey, error) {
	return change(ctx, r, "UpdateAccessKey", func(tx *Tx) (*AccessKey, error) {
		old, err := tx.accessKey(id)
		if err != nil {
			return nil, err
		}
		k := *old
		switch status {
		case "":
		case Active, Inactive:
			k.Status = status
		default:
			return nil, invalid("an access key is %s or %s", Active, Inactive)
		}
		if policy != "" {
			if err := r.checkDocument(policy); err != nil {
				return nil, err
			}
			k.Policy = policy
		}
		k.ModifiedAt = tx.now
		put(tx, r.accessKeys, id, &k)
		return &k, nil
	})
}

// DeleteAccessKey deletes an access key; sessions of it end.
func (r *Registry) DeleteAccessKey(ctx context.Context, id string) error {
	return r.Change(ctx, "registry.DeleteAccessKey", func(tx *Tx) error {
		if _, err := tx.accessKey(id); err != nil {
			return err
		}
		drop(tx, r.accessKeys, id)
		return nil
	})
}

// Session is a credential for a time, of an access key.
type Session struct {
	AccessKeyID string // ASIA and 16 characters
	Secret      string
	Token       string
	Expires     time.Time
}

// String keeps secret and token out of every %v.
func (s Session) String() string { return "session " + s.AccessKeyID }

// LogValue keeps secret and token out of every log.
func (s Session) LogValue() slog.Value { return slog.StringValue(s.String()) }

// sessionToken is what a token holds, sealed: nothing of a session is stored.
type sessionToken struct {
	ID      string    `json:"i"`
	Parent  string    `json:"p,omitempty"`
	Role    *Role     `json:"r,omitempty"` // instead of a parent
	Secret  string    `json:"s"`
	Expires time.Time `json:"e"`
}

const sessionSeal = "session-token"

// CreateSession makes a credential that may what an access key may, for 15
// minutes to 36 hours.
func (r *Registry) CreateSession(accessKeyID string, length time.Duration) (*Session, error) {
	const op = "registry.CreateSession"
	k, err := r.AccessKey(accessKeyID)
	if err != nil {
		return nil, err
	}
	if r.o.Seal == nil {
		return nil, errs.E(op, errs.NotImplemented, errNoSealer)
	}
	if k.Status != Active {
		return nil, errs.Errorf(op, errs.Forbidden, "access key %s is %s", k.ID, k.Status)
	}
	if length < 15*time.Minute || length > 36*time.Hour {
		return nil, wrap(op, invalid("a session lasts 15 minutes to 36 hours, not %s", length))
	}
	return r.newSession(sessionToken{Parent: k.ID}, length)
}

// newSession makes a session of t, which says whose it is.
func (r *Registry) newSession(t sessionToken, length time.Duration) (*Session, error) {
	t.ID, t.Secret, t.Expires = newAccessKeyID("ASIA"), newSecret(), r.now().Add(length).UTC().Truncate(time.Second)
	b, err := json.Marshal(t)
	if err != nil {
		return nil, errs.E("registry.newSession", errs.Internal, err)
	}
	token := base64.StdEncoding.EncodeToString(r.o.Seal.Seal(sessionSeal, b))
	return &Session{AccessKeyID: t.ID, Secret: t.Secret, Token: token, Expires: t.Expires}, nil
}

// Credential is what a signature is checked with.
type Credential struct {
	Key     *AccessKey // the session's access key, for a session; nil of a role
	Role    *Role      // nil of an access key
	Policy  string     // document: what it may
	Secret  string     // never to be logged
	Expires time.Time  // of a session; zero: never
}

// String keeps the secret out of every %v.
func (c Credential) String() string {
	if c.Role != nil {
		return "credential of role alias " + c.Role.Alias
	}
	return "credential of " + c.Key.ID
}

// LogValue keeps the secret out of every log.
func (c Credential) LogValue() slog.Value { return slog.StringValue(c.String()) }

// Credential returns what the signature of a request by an access key, or by a
// session with its token, is checked with. Status and times are checked.
// Errors: errs.Unauthorized (unknown, ended, token missing or not of this key),
// errs.Forbidden (inactive).
func (r *Registry) Credential(accessKeyID, token string) (*Credential, error) {
	const op = "registry.Credential"
	unknown := errs.Errorf(op, errs.Unauthorized, "the access key or its session token is not known")
	if r.o.Seal == nil {
		return nil, unknown
	}
	out := &Credential{}
	id := accessKeyID
	if strings.HasPrefix(accessKeyID, "ASIA") {
		sealed, err := base64.StdEncoding.DecodeString(token)
		if err != nil || len(token) > 4096 {
			return nil, unknown
		}
		b, err := r.o.Seal.Open(sessionSeal, sealed)
		var t sessionToken
		if err != nil || json.Unmarshal(b, &t) != nil || t.ID != accessKeyID {
			return nil, unknown
		}
		if !r.now().Before(t.Expires) {
			return nil, errs.Errorf(op, errs.Unauthorized, "the session ended at %s", t.Expires.Format(time.RFC3339))
		}
		id, out.Secret, out.Expires = t.Parent, t.Secret, t.Expires
		if t.Role != nil {
			out.Role = t.Role
			out.Policy, err = r.policyOfRole(t.Role)
			return out, err
		}
	} else if token != "" {
		return nil, unknown
	}
	k, err := r.AccessKey(id)
	if err != nil {
		return nil, unknown
	}
	if k.Status != Active {
		return nil, errs.Errorf(op, errs.Forbidden, "access key %s is %s", k.ID, k.Status)
	}
	out.Key, out.Policy = k, k.Policy
	if out.Secret == "" {
		b, err := r.o.Seal.Open(sealName(k.ID), k.Sealed)
		if err != nil {
			return nil, errs.E(op, errs.Internal, err)
		}
		out.Secret = string(b)
	}
	return out, nil
}
