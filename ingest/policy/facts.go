package policy

import (
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Facts are what is known of a principal on one connection: what variables and
// condition keys stand for. They are not changed once they are asked.
type Facts struct {
	ClientID string // "": none, as with HTTPS

	// Thing is the registered thing the connection is: the one attached to the
	// credential whose name is the client id, or that is attached exclusively. nil:
	// there is none, or the connection is not MQTT.
	Thing *Thing
	MQTT  bool // the connection is MQTT; only then iot:Connection.Thing.IsAttached has a value

	Certificate *Certificate // nil: none
	SourceIP    netip.Addr
	DomainName  string // the server name the client asked for (SNI)
	Secure      bool   // came over TLS

	// Of the CONNECT; keys of iot:Connect alone.
	ConnectAttributes []string // "PersistentConnect", "LastWill"
	LastWillTopic     string   // ARN; "": no will

	// Other has further keys, in lower case, such as "aws:username".
	Other map[string][]string

	ip string
}

// Thing is a registered thing.
type Thing struct {
	Name       string
	Type       string // "": none
	Attributes map[string]string
}

// Certificate is what policies may ask of a client certificate.
type Certificate struct {
	ID           string
	SerialNumber string
	// Attributes has the values of "Subject.CommonName", "Issuer.Country",
	// "Subject.AlternativeName.DNSName", ….
	Attributes map[string][]string
}

// maxValues and maxValue bound what is kept of a certificate's attribute.
// Source: AWS IoT Core developer guide, "X.509 certificate policy variables".
const (
	maxValues = 5
	maxValue  = 1024 // characters
)

// Prepare makes ready what questions need. It is called once, before the first.
func (f *Facts) Prepare() *Facts {
	if f.SourceIP.IsValid() {
		f.SourceIP = f.SourceIP.Unmap().WithZone("")
		f.ip = f.SourceIP.String()
	}
	return f
}

// Request is one question.
type Request struct {
	Action   Action
	Resource string // an ARN, or "*"
	Facts    *Facts
	Now      time.Time // for aws:CurrentTime and aws:EpochTime

	// volatile is set by a key that changes by itself.
	volatile bool
	one      [1]string
}

// key is a variable or a condition key.
type key struct {
	kind  keyKind
	name  string // of a thing's attribute, a certificate's attribute, another key
	index int    // which value of a certificate's attribute
	list  bool   // all of them
}

type keyKind byte

const (
	other keyKind = iota
	clientID
	sourceIP
	thingName
	thingType
	thingAttribute
	isAttached
	certificateID
	certificateSerial
	certificateAttribute
	certificateKeys
	connectAttributes
	lastWillTopic
	domainName
	currentTime
	epochTime
	secureTransport
)

var keys = map[string]keyKind{
	"iot:clientid": clientID, "iot:sourceip": sourceIP, "aws:sourceip": sourceIP,
	"iot:connection.thing.thingname": thingName, "iot:connection.thing.thingtypename": thingType,
	"iot:connection.thing.isattached": isAttached, "iot:certificateid": certificateID,
	"iot:certificate.serialnumber": certificateSerial, "iot:certificate.availablekeys": certificateKeys,
	"iot:connectattributes": connectAttributes, "iot:lastwilltopic": lastWillTopic, "iot:domainname": domainName,
	"aws:currenttime": currentTime, "aws:epochtime": epochTime, "aws:securetransport": secureTransport,
}

var certificateNames = []string{
	"DistinguishedNameQualifier", "Country", "Organization", "OrganizationalUnit", "State", "CommonName", "SerialNumber",
	"Title", "Surname", "GivenName", "Initials", "Pseudonym", "GenerationQualifier",
	"AlternativeName.RFC822Name", "AlternativeName.DNSName", "AlternativeName.DirectoryName",
	"AlternativeName.UniformResourceIdentifier", "AlternativeName.IPAddress",
}

// certificateKeyNames has the names of certificate attributes by their lower
// case.
var certificateKeyNames = func() map[string]string {
	m := map[string]string{}
	for _, of := range []string{"Subject.", "Issuer."} {
		for _, n := range certificateNames {
			m[strings.ToLower(of+n)] = of + n
		}
	}
	return m
}()

// parseKey reads a key; upper and lower case are the same, except in the name of
// a thing's attribute. One that is not known is looked for among the other
// facts.
func parseKey(s string) key {
	lower := strings.ToLower(s)
	if k, ok := keys[lower]; ok {
		return key{kind: k}
	}
	const attributes = "iot:connection.thing.attributes["
	if strings.HasPrefix(lower, attributes) && strings.HasSuffix(s, "]") {
		return key{kind: thingAttribute, name: s[len(attributes) : len(s)-1]}
	}
	if rest, ok := strings.CutPrefix(lower, "iot:certificate."); ok {
		k := key{kind: certificateAttribute}
		if name, ok := strings.CutSuffix(rest, ".list"); ok {
			rest, k.list = name, true
		} else if i := strings.LastIndexByte(rest, '.'); i > 0 {
			if n, err := strconv.ParseUint(rest[i+1:], 10, 16); err == nil {
				rest, k.index = rest[:i], int(n)
			}
		}
		if name, ok := certificateKeyNames[rest]; ok {
			k.name = name
			return k
		}
	}
	return key{kind: other, name: lower}
}

// values returns what k stands for; none: it has no value.
func (k *key) values(r *Request) []string {
	f := r.Facts
	one := func(s string) []string {
		if s == "" {
			return nil
		}
		r.one[0] = s
		return r.one[:]
	}
	switch k.kind {
	case clientID:
		return one(f.ClientID)
	case sourceIP:
		return one(f.ip)
	case thingName:
		if f.Thing != nil {
			return one(f.Thing.Name)
		}
	case thingType:
		if f.Thing != nil {
			return one(f.Thing.Type)
		}
	case thingAttribute:
		if f.Thing != nil {
			return one(f.Thing.Attributes[k.name])
		}
	case isAttached:
		if f.MQTT {
			return one(boolText(f.Thing != nil))
		}
	case certificateID:
		if f.Certificate != nil {
			return one(f.Certificate.ID)
		}
	case certificateSerial:
		if f.Certificate != nil {
			return one(f.Certificate.SerialNumber)
		}
	case certificateAttribute:
		if f.Certificate == nil {
			return nil
		}
		list := f.Certificate.Attributes[k.name]
		list = list[:min(len(list), maxValues)]
		if k.list {
			return list
		}
		if k.index < len(list) && utf8.RuneCountInString(list[k.index]) <= maxValue {
			return one(list[k.index])
		}
	case certificateKeys:
		if f.Certificate != nil {
			return f.Certificate.keys()
		}
	case connectAttributes:
		if r.Action.id == connectID {
			return f.ConnectAttributes
		}
	case lastWillTopic:
		if r.Action.id == connectID {
			return one(f.LastWillTopic)
		}
	case domainName:
		return one(f.DomainName)
	case currentTime:
		r.volatile = true
		return one(r.Now.UTC().Format(time.RFC3339))
	case epochTime:
		r.volatile = true
		return one(strconv.FormatInt(r.Now.Unix(), 10))
	case secureTransport:
		return one(boolText(f.Secure))
	default:
		return f.Other[k.name]
	}
	return nil
}

func boolText(b bool) string {
	if b {
		return "true"
	}
	return "false"
}

// keys returns the names of the variables of c that have a value.
func (c *Certificate) keys() []string {
	var out []string
	for _, of := range []string{"Subject.", "Issuer."} {
		for _, n := range certificateNames {
			if len(c.Attributes[of+n]) > 0 {
				out = append(out, "iot:Certificate."+of+n)
			}
		}
	}
	if c.SerialNumber != "" {
		out = append(out, "iot:Certificate.SerialNumber")
	}
	return out
}

// substitute returns the value k is replaced by in a pattern. Values that would
// be wildcards of a policy or of a topic filter are not put in.
func (k *key) substitute(r *Request) (string, bool) {
	v := k.values(r)
	if len(v) != 1 {
		return "", false
	}
	wild := "*?+#"
	if k.kind == certificateAttribute {
		wild = "*?+#$"
	}
	if strings.ContainsAny(v[0], wild) {
		return "", false
	}
	return v[0], true
}

// Connecting takes what a CONNECT asks for. arn is what goes before the kind of
// a resource in an ARN: "arn:aws:iot:us-east-1:123456789012:".
func (f *Facts) Connecting(arn string, persistent bool, willTopic string) {
	if persistent {
		f.ConnectAttributes = append(f.ConnectAttributes, "PersistentConnect")
	}
	if willTopic != "" {
		f.ConnectAttributes = append(f.ConnectAttributes, "LastWill")
		f.LastWillTopic = arn + "topic/" + willTopic
	}
}
