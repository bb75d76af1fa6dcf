package azure

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/weir-iot/weir/internal/errs"
)

// Ways of a device to say who it is.
const (
	authSAS        = "sas"
	authSelfSigned = "selfSigned"
	authCA         = "certificateAuthority"
)

// Identity is a device, or a module of one.
type Identity struct {
	Device, Module string // Module "": the device itself
	Generation     string // another one after it was deleted and made again
	ETag           string // of this version
	Enabled        bool
	StatusReason   string
	StatusUpdated  time.Time
	Created        time.Time

	Type                         string // "sas", "selfSigned", "certificateAuthority"
	PrimaryKey, SecondaryKey     string // Base64; of type sas
	PrimaryThumb, SecondaryThumb string // upper case hexadecimal, SHA-1 or SHA-256; of type selfSigned
	revision                     uint64
	unreadable                   bool // its keys cannot be opened: nobody is it
}

// name is device, or device/module: what MQTT has as the client id.
func (i *Identity) name() string { return nameOf(i.Device, i.Module) }

func nameOf(device, module string) string {
	if module == "" {
		return device
	}
	return device + "/" + module
}

// stored is an Identity in the bucket.
type stored struct {
	Generation    string    `json:"generation"`
	ETag          string    `json:"etag"`
	Disabled      bool      `json:"disabled,omitempty"`
	StatusReason  string    `json:"statusReason,omitempty"`
	StatusUpdated time.Time `json:"statusUpdated"`
	Created       time.Time `json:"created"`
	Type          string    `json:"type"`
	Keys          []byte    `json:"keys,omitempty"` // sealed: both, with a line end between
	Thumbprints   []string  `json:"thumbprints,omitempty"`
}

const bucketPrefix = "identity."

func keyOf(device, module string) string {
	if module == "" {
		return bucketPrefix + device
	}
	return bucketPrefix + device + "." + module
}

func parseKey(key string) (device, module string) {
	device, module, _ = strings.Cut(strings.TrimPrefix(key, bucketPrefix), ".")
	return device, module
}

func (i *Identity) encode(box Sealer) ([]byte, error) {
	s := stored{
		Generation: i.Generation, ETag: i.ETag, Disabled: !i.Enabled, StatusReason: i.StatusReason,
		StatusUpdated: i.StatusUpdated, Created: i.Created, Type: i.Type,
	}
	switch i.Type {
	case authSAS:
		s.Keys = box.Seal(keyOf(i.Device, i.Module), []byte(i.PrimaryKey+"\n"+i.SecondaryKey))
	case authSelfSigned:
		s.Thumbprints = []string{i.PrimaryThumb, i.SecondaryThumb}
	}
	return json.Marshal(s)
}

func decodeIdentity(key string, value []byte, box Sealer) (*Identity, error) {
	var s stored
	if err := json.Unmarshal(value, &s); err != nil {
		return nil, err
	}
	i := &Identity{
		Generation: s.Generation, ETag: s.ETag, Enabled: !s.Disabled, StatusReason: s.StatusReason,
		StatusUpdated: s.StatusUpdated, Created: s.Created, Type: s.Type,
	}
	i.Device, i.Module = parseKey(key)
	if len(s.Thumbprints) == 2 {
		i.PrimaryThumb, i.SecondaryThumb = s.Thumbprints[0], s.Thumbprints[1]
	}
	if len(s.Keys) > 0 {
		keys, err := box.Open(key, s.Keys)
		if err != nil {
			i.unreadable = true
			return i, nil
		}
		i.PrimaryKey, i.SecondaryKey, _ = strings.Cut(string(keys), "\n")
	}
	return i, nil
}

// newKey returns a random key of 256 bits, in Base64.
func newKey() string {
	var b [32]byte
	rand.Read(b[:])
	return base64.StdEncoding.EncodeToString(b[:])
}

func newETag() string {
	var b [8]byte
	rand.Read(b[:])
	return base64.StdEncoding.EncodeToString(b[:])
}

func newGeneration() string {
	var b [8]byte
	rand.Read(b[:])
	return fmt.Sprintf("%018d", binary.BigEndian.Uint64(b[:])>>5)
}

// maxID bounds a device id; a module id is the name of a shadow, which AWS bounds
// to maxModule.
const (
	maxID     = 128
	maxModule = 64
)

// checkID holds an id against what a thing may be called, so that its twin has a
// thing to live on. Azure allows more: . % * ? ! ( ) , = @ $ '.
func checkID(what, id string, limit int) error {
	const op = "azure.CheckID"
	if id == "" || len(id) > limit {
		return errs.Errorf(op, errs.Invalid, "%s: 1 to %d characters", what, limit)
	}
	for _, c := range []byte(id) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == ':') {
			return errs.Errorf(op, errs.Invalid, "%s %q: Weir takes letters, digits, '-', '_' and ':', what a thing can be called", what, id)
		}
	}
	return nil
}

func checkKeyText(key string) error {
	b, err := base64.StdEncoding.Strict().DecodeString(key)
	if err != nil || len(b) < 16 || len(b) > 64 {
		return errs.Errorf("azure.CheckKey", errs.Invalid, "a key is the Base64 of 16 to 64 bytes")
	}
	return nil
}

func checkThumbprint(s string) error {
	if b, err := hex.DecodeString(s); err != nil || len(b) != 20 && len(b) != 32 {
		return errs.Errorf("azure.CheckThumbprint", errs.Invalid, "a thumbprint is the SHA-1 or SHA-256 of the certificate, in hexadecimal")
	}
	return nil
}

// complete fills in what is left out and checks the rest.
func (i *Identity) complete(ca bool) error {
	const op = "azure.Identity"
	if err := checkID("device id", i.Device, maxID); err != nil {
		return err
	}
	if i.Module != "" {
		if err := checkID("module id", i.Module, maxModule); err != nil {
			return err
		}
	}
	if len(i.StatusReason) > 128 {
		return errs.Errorf(op, errs.Invalid, "a status reason has at most 128 bytes")
	}
	if i.Type == "" {
		i.Type = authSAS
		if i.PrimaryThumb != "" || i.SecondaryThumb != "" {
			i.Type = authSelfSigned
		}
	}
	if i.Type != authSAS {
		i.PrimaryKey, i.SecondaryKey = "", ""
	}
	if i.Type != authSelfSigned {
		i.PrimaryThumb, i.SecondaryThumb = "", ""
	}
	switch i.Type {
	case authSAS:
		if (i.PrimaryKey == "") != (i.SecondaryKey == "") {
			return errs.Errorf(op, errs.Invalid, "primary and secondary key: both, or neither to have them made")
		}
		if i.PrimaryKey == "" {
			i.PrimaryKey, i.SecondaryKey = newKey(), newKey()
		}
		for _, k := range []string{i.PrimaryKey, i.SecondaryKey} {
			if err := checkKeyText(k); err != nil {
				return err
			}
		}
	case authSelfSigned:
		if i.PrimaryThumb == "" && i.SecondaryThumb == "" {
			return errs.Errorf(op, errs.Invalid, "authentication type selfSigned needs a thumbprint")
		}
		for _, t := range []*string{&i.PrimaryThumb, &i.SecondaryThumb} {
			if *t == "" {
				continue
			}
			if err := checkThumbprint(*t); err != nil {
				return err
			}
			*t = strings.ToUpper(*t)
		}
	case authCA:
		if !ca {
			return errs.Errorf(op, errs.NotImplemented, "authentication type certificateAuthority is not available here")
		}
	default:
		return errs.Errorf(op, errs.Invalid, "authentication type %q: expected sas, selfSigned or certificateAuthority", i.Type)
	}
	return nil
}
