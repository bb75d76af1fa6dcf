package auth

import (
	"crypto/x509"
	"encoding/asn1"
	"net/netip"
	"strings"

	"crypto/x509/pkix"

	"github.com/weir-iot/weir/ingest/policy"
)

// attributeNames has the names policies give the attributes of a distinguished
// name. Source: RFC 4519, RFC 3739.
var attributeNames = map[string]string{
	"2.5.4.46": "DistinguishedNameQualifier", "2.5.4.6": "Country", "2.5.4.10": "Organization", "2.5.4.11": "OrganizationalUnit",
	"2.5.4.8": "State", "2.5.4.3": "CommonName", "2.5.4.5": "SerialNumber", "2.5.4.12": "Title", "2.5.4.4": "Surname",
	"2.5.4.42": "GivenName", "2.5.4.43": "Initials", "2.5.4.65": "Pseudonym", "2.5.4.44": "GenerationQualifier",
}

// maxAttributes is how many values of one attribute are kept.
const maxAttributes = 5

// policyCertificate returns what policies may ask of c.
func policyCertificate(c *x509.Certificate, id string) *policy.Certificate {
	out := &policy.Certificate{ID: id, SerialNumber: c.SerialNumber.String(), Attributes: map[string][]string{}}
	add := func(name, value string) {
		if len(out.Attributes[name]) < maxAttributes {
			out.Attributes[name] = append(out.Attributes[name], escape(value))
		}
	}
	for _, dn := range []struct {
		of  string
		raw pkix.Name
	}{{"Subject.", c.Subject}, {"Issuer.", c.Issuer}} {
		for _, a := range dn.raw.Names {
			if s, ok := a.Value.(string); ok {
				if name := attributeNames[a.Type.String()]; name != "" {
					add(dn.of+name, s)
				}
			}
		}
	}
	for _, ext := range c.Extensions {
		of := ""
		switch ext.Id.String() {
		case "2.5.29.17":
			of = "Subject.AlternativeName."
		case "2.5.29.18":
			of = "Issuer.AlternativeName."
		default:
			continue
		}
		for kind, values := range alternativeNames(ext.Value) {
			for _, v := range values {
				add(of+kind, v)
			}
		}
	}
	return out
}

// alternativeNames reads a GeneralNames extension; what it cannot read it leaves
// out. Source: RFC 5280, section 4.2.1.6.
func alternativeNames(der []byte) map[string][]string {
	var seq asn1.RawValue
	if rest, err := asn1.Unmarshal(der, &seq); err != nil || len(rest) > 0 || seq.Tag != asn1.TagSequence {
		return nil
	}
	out := map[string][]string{}
	for rest := seq.Bytes; len(rest) > 0; {
		var v asn1.RawValue
		var err error
		if rest, err = asn1.Unmarshal(rest, &v); err != nil {
			return out
		}
		if v.Class != asn1.ClassContextSpecific {
			continue
		}
		switch v.Tag {
		case 1:
			out["RFC822Name"] = append(out["RFC822Name"], string(v.Bytes))
		case 2:
			out["DNSName"] = append(out["DNSName"], string(v.Bytes))
		case 4:
			var rdn pkix.RDNSequence
			if rest, err := asn1.Unmarshal(v.Bytes, &rdn); err == nil && len(rest) == 0 {
				out["DirectoryName"] = append(out["DirectoryName"], rdn.String())
			}
		case 6:
			out["UniformResourceIdentifier"] = append(out["UniformResourceIdentifier"], string(v.Bytes))
		case 7:
			if a, ok := netip.AddrFromSlice(v.Bytes); ok {
				out["IPAddress"] = append(out["IPAddress"], a.String())
			}
		}
	}
	return out
}

// escape puts a backslash before the characters AWS IoT wants one before in a
// policy's text, so that a policy written for it means the same here.
func escape(s string) string {
	if !strings.ContainsAny(s, `,"\+=<>;`) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if strings.ContainsRune(`,"\+=<>;`, r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}
