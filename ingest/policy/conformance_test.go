package policy

import (
	"bufio"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const prefix = "arn:aws:iot:us-east-1:123456789012:"

// vector is a line of testdata/conformance/policy; its README says what the
// fields are.
type vector struct {
	ID       string
	Policy   json.RawMessage
	Policies []json.RawMessage
	Context  struct {
		ClientID    string `json:"clientId"`
		ThingName   string
		Attached    bool
		Exclusive   bool
		ThingType   string
		Attributes  map[string]string
		Certificate *struct {
			ID              string
			SerialNumber    string
			Subject, Issuer map[string][]string
		}
		SourceIP          string `json:"sourceIp"`
		Protocol          string
		ConnectAttributes []string
		LastWillTopic     string
	}
	Action, Resource, Expect, Note string
}

func (v *vector) facts() *Facts {
	c := &v.Context
	f := &Facts{ClientID: c.ClientID, MQTT: c.Protocol != "https", ConnectAttributes: c.ConnectAttributes}
	if f.MQTT && c.ThingName != "" && c.Attached && (c.ClientID == c.ThingName || c.Exclusive) {
		f.Thing = &Thing{Name: c.ThingName, Type: c.ThingType, Attributes: c.Attributes}
	}
	if x := c.Certificate; x != nil {
		f.Certificate = &Certificate{ID: x.ID, SerialNumber: x.SerialNumber, Attributes: map[string][]string{}}
		for n, l := range x.Subject {
			f.Certificate.Attributes["Subject."+n] = l
		}
		for n, l := range x.Issuer {
			f.Certificate.Attributes["Issuer."+n] = l
		}
	}
	f.SourceIP, _ = netip.ParseAddr(c.SourceIP)
	if c.LastWillTopic != "" {
		f.LastWillTopic = prefix + "topic/" + c.LastWillTopic
	}
	return f.Prepare()
}

// vectors reads those of WEIR_CONFORMANCE/policy, or the copy in testdata.
func vectors(t testing.TB) []vector {
	dir := filepath.Join("testdata", "conformance")
	if d := os.Getenv("WEIR_CONFORMANCE"); d != "" {
		dir = d
	}
	f, err := os.Open(filepath.Join(dir, "policy", "vectors.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []vector
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if strings.TrimSpace(lines.Text()) == "" {
			continue
		}
		var v vector
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		if v.Policies == nil {
			v.Policies = []json.RawMessage{v.Policy}
		}
		out = append(out, v)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

func (v *vector) set(t testing.TB) *Set {
	var sources []Source
	for _, p := range v.Policies {
		d, err := Parse(string(p))
		if err != nil {
			t.Fatalf("%s: %v", v.ID, err)
		}
		sources = append(sources, Source{v.ID, d})
	}
	return Compile(sources...)
}

func (v *vector) request() *Request {
	r := &Request{Action: ActionOf(v.Action), Resource: v.Resource, Facts: v.facts(), Now: time.Unix(1e9, 0)}
	if v.Resource != "*" {
		r.Resource = prefix + v.Resource
	}
	return r
}

func TestConformance(t *testing.T) {
	list := vectors(t)
	if len(list) < 73 {
		t.Fatal(len(list), "vectors")
	}
	for _, v := range list {
		s, r := v.set(t), v.request()
		d := s.Decide(r)
		if d.Allowed != (v.Expect == "allow") {
			t.Errorf("%s: expected %s, %s (%s)\n%s\n%s %s", v.ID, v.Expect, s.Text(d), v.Note, v.Policies, v.Action, v.Resource)
		}
		i := strings.LastIndexByte(r.Resource[:strings.IndexByte(r.Resource+"/", '/')], ':') + 1 // before the kind
		for _, i := range []int{i, i + strings.IndexByte(r.Resource[i:], '/') + 1, 0, len(r.Resource)} {
			b := s.Bind(r.Action, r.Resource[:i], r.Facts)
			if b.Allows(r.Resource[i:], func() time.Time { return r.Now }) != d.Allowed {
				t.Errorf("%s: bound to %q it is not %s", v.ID, r.Resource[:i], v.Expect)
			}
		}
	}
}
