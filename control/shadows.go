package control

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/shadow"
)

// Shadows is the shadow service. Errors carry a kind; see package shadow.
type Shadows interface {
	Read(ctx context.Context, thing, name string) (*shadow.Document, error)
	All(ctx context.Context, thing string) ([]shadow.Summary, error)
	Update(ctx context.Context, thing, name string, body []byte, who shadow.Who) ([]byte, error)
	Delete(ctx context.Context, thing, name string, who shadow.Who) ([]byte, error)
	History(ctx context.Context, thing, name string, max int) ([]*shadow.Document, error)
	Past(ctx context.Context, thing, name string, at shadow.At) (*shadow.Document, error)
	Restore(ctx context.Context, thing, name string, at shadow.At, all bool, who shadow.Who) (*shadow.Document, error)
}

var shadowRoutes = []route{
	{"GET /weir/v1/shadows", false, (*Server).listShadows},
	{"GET /weir/v1/shadows/{thing}", false, (*Server).getShadow},
	{"POST /weir/v1/shadows/{thing}", false, (*Server).updateShadow},
	{"DELETE /weir/v1/shadows/{thing}", false, (*Server).deleteShadow},
	{"GET /weir/v1/shadows/{thing}/log", false, (*Server).shadowLog},
	{"GET /weir/v1/shadows/{thing}/diff", false, (*Server).shadowDiff},
	{"POST /weir/v1/shadows/{thing}/restore", false, (*Server).restoreShadow},
}

// ShadowDocument is a version of a shadow: as AWS shows it, and who made it.
type ShadowDocument struct {
	Document json.RawMessage  `json:"document"` // as GetThingShadow answers
	Details  *shadow.Document `json:"details"`
}

// ShadowVersion is one line of a shadow's log.
type ShadowVersion struct {
	Version uint64              `json:"version"`
	Time    time.Time           `json:"time"`
	Op      string              `json:"op"` // "update", "delete", "change"
	Note    string              `json:"note,omitempty"`
	By      shadow.Who          `json:"by"`
	Changes []shadow.Difference `json:"changes"` // against the version before; of the oldest kept: all there is
}

// requestTime bounds how long a request waits for the shadow service.
const requestTime = 10 * time.Second

func (s *Server) listShadows(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "thing")
	if err != nil {
		return err
	}
	list, err := s.o.Shadows.All(r.Context(), q.Get("thing"))
	if err != nil {
		return err
	}
	if list == nil {
		list = []shadow.Summary{}
	}
	writeJSON(w, http.StatusOK, struct {
		Shadows []shadow.Summary `json:"shadows"`
	}{list})
	return nil
}

// at reads which version is meant; ok is false where none is named.
func at(q url.Values, version, when string) (a shadow.At, ok bool, err error) {
	const op = "control.shadows"
	if v := q.Get(version); v != "" {
		if a.Version, err = strconv.ParseUint(v, 10, 63); err != nil || a.Version == 0 {
			return a, false, errs.Errorf(op, errs.Invalid, "%s: expected the number of a version, found %q", version, v)
		}
		ok = true
	}
	if v := q.Get(when); when != "" && v != "" {
		if ok {
			return a, false, errs.Errorf(op, errs.Invalid, "%s and %s: one of them", version, when)
		}
		if a.Time, err = time.Parse(time.RFC3339Nano, v); err != nil {
			return a, false, errs.Errorf(op, errs.Invalid, "%s: expected a time as 2006-01-02T15:04:05Z, found %q", when, v)
		}
		ok = true
	}
	return a, ok, nil
}

func (s *Server) getShadow(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "name", "version", "at")
	if err != nil {
		return err
	}
	a, past, err := at(q, "version", "at")
	if err != nil {
		return err
	}
	var d *shadow.Document
	if past {
		d, err = s.o.Shadows.Past(r.Context(), r.PathValue("thing"), q.Get("name"), a)
	} else {
		d, err = s.o.Shadows.Read(r.Context(), r.PathValue("thing"), q.Get("name"))
	}
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, shown(d))
	return nil
}

func shown(d *shadow.Document) ShadowDocument {
	return ShadowDocument{Document: d.AWS(d.Time), Details: d}
}

func (s *Server) updateShadow(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "name")
	if err != nil {
		return err
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return errs.Errorf("control.updateShadow", errs.TooLarge, "a request may have %d bytes", tooLarge.Limit)
		}
		return errs.E("control.updateShadow", errs.Invalid, err)
	}
	ctx, cancel := context.WithTimeout(r.Context(), requestTime)
	defer cancel()
	out, err := s.o.Shadows.Update(ctx, r.PathValue("thing"), q.Get("name"), body, who(r))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, json.RawMessage(out))
	return nil
}

func who(r *http.Request) shadow.Who {
	return shadow.Who{Principal: "admin", SourceIP: hostOnly(r.RemoteAddr), Via: "http"}
}

func (s *Server) deleteShadow(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "name")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), requestTime)
	defer cancel()
	out, err := s.o.Shadows.Delete(ctx, r.PathValue("thing"), q.Get("name"), who(r))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, json.RawMessage(out))
	return nil
}

func (s *Server) shadowLog(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "name", "max")
	if err != nil {
		return err
	}
	max, err := uintParam(q, "max", 20, 1000)
	if err != nil {
		return err
	}
	// One more, for the differences of the last one.
	list, err := s.o.Shadows.History(r.Context(), r.PathValue("thing"), q.Get("name"), int(max)+1)
	if err != nil {
		return err
	}
	out := []ShadowVersion{}
	for i, d := range list {
		if i == int(max) {
			break
		}
		v := ShadowVersion{Version: d.Version, Time: d.Time, Op: d.Op, Note: d.Note, By: d.By}
		var before *shadow.Document
		if i+1 < len(list) {
			before = list[i+1]
		}
		if v.Changes = shadow.Diff(before, d); v.Changes == nil {
			v.Changes = []shadow.Difference{}
		}
		out = append(out, v)
	}
	writeJSON(w, http.StatusOK, struct {
		Versions []ShadowVersion `json:"versions"`
	}{out})
	return nil
}

func (s *Server) shadowDiff(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "name", "from", "to")
	if err != nil {
		return err
	}
	thing, name := r.PathValue("thing"), q.Get("name")
	version := func(key string) (*shadow.Document, error) {
		a, ok, err := at(q, key, "")
		if err != nil {
			return nil, err
		}
		if !ok {
			return s.o.Shadows.Read(r.Context(), thing, name)
		}
		return s.o.Shadows.Past(r.Context(), thing, name, a)
	}
	from, err := version("from")
	if err != nil {
		return err
	}
	to, err := version("to")
	if err != nil {
		return err
	}
	changes := shadow.Diff(from, to)
	if changes == nil {
		changes = []shadow.Difference{}
	}
	writeJSON(w, http.StatusOK, ShadowDiff{from.Version, to.Version, changes})
	return nil
}

// ShadowDiff is what differs between two versions.
type ShadowDiff struct {
	From    uint64              `json:"from"`
	To      uint64              `json:"to"`
	Changes []shadow.Difference `json:"changes"`
}

func (s *Server) restoreShadow(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "name", "version", "at", "all")
	if err != nil {
		return err
	}
	a, ok, err := at(q, "version", "at")
	if err != nil {
		return err
	}
	if !ok {
		return errs.Errorf("control.restoreShadow", errs.Invalid, "say which: version or at")
	}
	all, err := boolParam(q, "all")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), requestTime)
	defer cancel()
	d, err := s.o.Shadows.Restore(ctx, r.PathValue("thing"), q.Get("name"), a, all, who(r))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, shown(d))
	return nil
}

func shadowPath(thing string) string { return "/weir/v1/shadows/" + url.PathEscape(thing) }

// Shadows lists the shadows of a thing, or with "" of all.
func (c *Client) Shadows(ctx context.Context, thing string) ([]shadow.Summary, error) {
	var out struct{ Shadows []shadow.Summary }
	err := c.call(ctx, "GET", "/weir/v1/shadows", url.Values{"thing": {thing}}, nil, &out)
	return out.Shadows, err
}

// Shadow returns a version of a shadow, the newest where q names none; see the
// parameters of the API.
func (c *Client) Shadow(ctx context.Context, thing string, q url.Values) (*ShadowDocument, error) {
	var out ShadowDocument
	return &out, c.call(ctx, "GET", shadowPath(thing), q, nil, &out)
}

// UpdateShadow merges a request document and returns the accepted one.
func (c *Client) UpdateShadow(ctx context.Context, thing, name string, body []byte) (json.RawMessage, error) {
	var out json.RawMessage
	err := c.call(ctx, "POST", shadowPath(thing), url.Values{"name": {name}}, body, &out)
	return out, err
}

// DeleteShadow deletes a shadow.
func (c *Client) DeleteShadow(ctx context.Context, thing, name string) (json.RawMessage, error) {
	var out json.RawMessage
	err := c.call(ctx, "DELETE", shadowPath(thing), url.Values{"name": {name}}, nil, &out)
	return out, err
}

// ShadowLog returns the newest versions of a shadow, the newest first.
func (c *Client) ShadowLog(ctx context.Context, thing, name string, max int) ([]ShadowVersion, error) {
	var out struct{ Versions []ShadowVersion }
	err := c.call(ctx, "GET", shadowPath(thing)+"/log", url.Values{"name": {name}, "max": {strconv.Itoa(max)}}, nil, &out)
	return out.Versions, err
}

// ShadowDiff compares two versions.
func (c *Client) ShadowDiff(ctx context.Context, thing string, q url.Values) (*ShadowDiff, error) {
	var out ShadowDiff
	return &out, c.call(ctx, "GET", shadowPath(thing)+"/diff", q, nil, &out)
}

// RestoreShadow makes a version of the past the next one.
func (c *Client) RestoreShadow(ctx context.Context, thing string, q url.Values) (*ShadowDocument, error) {
	var out ShadowDocument
	return &out, c.call(ctx, "POST", shadowPath(thing)+"/restore", q, nil, &out)
}
