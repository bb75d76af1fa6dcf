package functions

import (
	"context"
	"encoding/json"
	"maps"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/tetratelabs/wazero"

	"github.com/weir-iot/weir/functions/sandbox"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/kv"
)

// Deployment is a function to be made or changed.
type Deployment struct {
	Name    string
	Config  Config
	Package []byte // zip; nil: the code Config.Code names stays

	// Uploaded: the package lies in the bucket already, as Config.Code and CodeSize
	// say.
	Uploaded bool

	Create  bool   // it must not be there yet
	Update  bool   // it must be there
	Publish bool   // a numbered version too, where something changed
	Expect  string // revision it must have; "": any
}

// Deployed is what became of a Deployment.
type Deployed struct {
	Function *Function `json:"function"`
	Result   string    `json:"result"` // "created", "changed", "unchanged"
	// Warnings say what the function is not kept from.
	Warnings []string `json:"warnings,omitempty"`
}

// Deploy makes or changes a function: once it returns, the next invocation runs
// the new version, here and in every process. Errors: errs.Invalid,
// errs.Exists, errs.NotFound, errs.Conflict, errs.TooLarge, errs.Forbidden (it
// cannot be isolated), errs.Unavailable.
func (s *Service) Deploy(ctx context.Context, d Deployment) (*Deployed, error) {
	const op = "functions.Deploy"
	if !validName.MatchString(d.Name) {
		return nil, errs.Errorf(op, errs.Invalid, "%q is no name of a function: 1 to 64 letters, digits, - and _", d.Name)
	}
	if len(d.Package) > MaxPackage {
		return nil, errs.Errorf(op, errs.TooLarge, "the package has %d bytes, at most %d are taken", len(d.Package), MaxPackage)
	}
	if s.elsewhere != nil {
		return s.elsewhere.deploy(ctx, d)
	}
	cfg := d.Config
	if d.Package != nil {
		cfg.Code, cfg.CodeSize = hash(d.Package), int64(len(d.Package))
	}
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	if err := s.grantable(cfg.Mounts); err != nil {
		return nil, err
	}
	if cfg.process() {
		if err := s.permitted(ctx, &cfg); err != nil {
			return nil, err
		}
	}
	s.deploying.Lock()
	defer s.deploying.Unlock()
	old, rev, err := s.load(ctx, d.Name)
	if err != nil {
		return nil, err
	}
	switch {
	case old != nil && d.Create:
		return nil, errs.Errorf(op, errs.Exists, "Function already exist: %s", d.Name)
	case old == nil && d.Update:
		return nil, errs.Errorf(op, errs.NotFound, "Function not found: %s", s.ARN(d.Name, ""))
	case d.Expect != "" && (old == nil || old.Revision != d.Expect):
		return nil, errs.Errorf(op, errs.Conflict, "The Revision Id provided does not match the latest Revision Id")
	}
	now := s.now().UTC()
	r := record{Name: d.Name, Latest: cfg, Created: now, Modified: now, Revision: NewID()}
	result := "created"
	if old != nil {
		result = "changed"
		r.Created, r.Last, r.Versions = old.Created, old.Last, maps.Clone(old.Versions)
		newest, published := old.Versions[old.Last]
		if same(old.Latest, cfg) && (!d.Publish || published && same(newest, cfg)) {
			f, _, _, err := s.find(d.Name, "")
			if err != nil {
				return nil, err
			}
			return &Deployed{s.describe(f, f.Latest, Latest), "unchanged", cfg.isolates(s.reportFor(ctx, &cfg))}, nil
		}
	}
	if d.Publish {
		if r.Versions == nil {
			r.Versions = map[int]Config{}
		}
		r.Last++
		r.Versions[r.Last] = cfg
		for len(r.Versions) > manyVersions {
			delete(r.Versions, slices.Min(slices.Collect(maps.Keys(r.Versions))))
		}
	}
	if d.Package != nil {
		if _, err := s.codes.put(ctx, d.Package); err != nil {
			return nil, err
		}
	}
	if d.Package != nil || d.Uploaded {
		// It must unpack before anyone may call it.
		dir, err := s.codes.folder(ctx, cfg.Code, cfg.CodeSize)
		if err == nil && cfg.Runtime == "wasm" {
			var rt wazero.Runtime
			if rt, _, err = s.compile(dir, &cfg); err == nil { // into the cache: no call waits for it
				rt.Close(context.Background())
			}
		}
		if err != nil {
			if old == nil || !slices.Contains(old.packages(), cfg.Code) {
				_ = s.codes.drop(ctx, cfg.Code, cfg.CodeSize)
			}
			return nil, err
		}
	}
	f, err := s.store(ctx, &r, rev)
	if err != nil {
		return nil, err
	}
	s.sweep(ctx, old, &r)
	return &Deployed{s.describe(f, r.Latest, Latest), result, cfg.isolates(s.reportFor(ctx, &cfg))}, nil
}

// grantable refuses mounts that show Weir's own files.
func (s *Service) grantable(mounts []string) error {
	for _, m := range mounts {
		if real, err := filepath.EvalSymlinks(m); err == nil {
			m = real
		}
		for _, h := range append([]string{s.o.Dir}, s.o.Hidden...) {
			if h, err := filepath.Abs(h); err != nil || inside(m, h) || inside(h, m) {
				return errs.Errorf("functions.Deploy", errs.Invalid, "mount %q: Weir's own files are there", m)
			}
		}
	}
	return nil
}

// inside reports whether path is dir or below it.
func inside(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

func (s *Service) reportFor(ctx context.Context, cfg *Config) *sandbox.Report {
	if !cfg.process() {
		return &sandbox.Report{}
	}
	return s.host.Check(ctx)
}

// load reads a record as it is now; nil: there is none.
func (s *Service) load(ctx context.Context, name string) (*record, uint64, error) {
	e, err := s.bucket.Get(ctx, recordPrefix+name)
	if errs.Is(err, errs.NotFound) {
		return nil, e.Revision, nil
	}
	if err != nil {
		return nil, 0, err
	}
	var r record
	if err := json.Unmarshal(e.Value, &r); err != nil {
		return nil, 0, errs.E("functions.load", errs.Internal, err)
	}
	return &r, e.Revision, nil
}

// store writes a record over the one of revision rev and takes it over at once.
func (s *Service) store(ctx context.Context, r *record, rev uint64) (*function, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	if rev, err = s.bucket.Update(ctx, recordPrefix+r.Name, b, rev); err != nil {
		if errs.Is(err, errs.Conflict) {
			return nil, errs.Errorf("functions.store", errs.Conflict, "the function %s was changed meanwhile", r.Name)
		}
		return nil, err
	}
	s.seen(kv.Entry{Key: recordPrefix + r.Name, Value: b, Revision: rev})
	s.mu.RLock()
	defer s.mu.RUnlock()
	f := s.byName[r.Name]
	if f == nil {
		return nil, errs.Errorf("functions.store", errs.Conflict, "the function %s was deleted meanwhile", r.Name)
	}
	return f, nil
}

// Publish numbers the latest version. Where it is the one numbered last, that is
// returned.
func (s *Service) Publish(ctx context.Context, ref, description string) (*Function, error) {
	f, _, _, err := s.find(ref, "")
	if err != nil {
		return nil, err
	}
	if s.elsewhere != nil {
		return s.elsewhere.publish(ctx, ref, description)
	}
	s.deploying.Lock()
	defer s.deploying.Unlock()
	r, rev, err := s.load(ctx, f.Name)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, errs.Errorf("functions.Publish", errs.NotFound, "Function not found: %s", s.ARN(f.Name, ""))
	}
	if newest, ok := r.Versions[r.Last]; !ok || !same(newest, r.Latest) {
		if r.Versions == nil {
			r.Versions = map[int]Config{}
		}
		old := *r
		old.Versions = maps.Clone(r.Versions)
		r.Last++
		cfg := r.Latest
		if description != "" {
			cfg.Description = description
		}
		r.Versions[r.Last] = cfg
		for len(r.Versions) > manyVersions {
			delete(r.Versions, slices.Min(slices.Collect(maps.Keys(r.Versions))))
		}
		if f, err = s.store(ctx, r, rev); err != nil {
			return nil, err
		}
		s.sweep(ctx, &old, r)
	}
	return s.describe(f, r.Versions[r.Last], strconv.Itoa(r.Last)), nil
}

// Delete deletes a function, or with a number as qualifier one of its versions.
// Invocations under way end by themselves. Errors: errs.NotFound, errs.Invalid.
func (s *Service) Delete(ctx context.Context, ref, qualifier string) error {
	const op = "functions.Delete"
	f, _, version, err := s.find(ref, qualifier)
	if err != nil {
		return err
	}
	if s.elsewhere != nil {
		return s.elsewhere.delete(ctx, ref, f.Name, qualifier)
	}
	s.deploying.Lock()
	defer s.deploying.Unlock()
	old, rev, err := s.load(ctx, f.Name)
	if err != nil {
		return err
	}
	if old == nil {
		return errs.Errorf(op, errs.NotFound, "Function not found: %s", s.ARN(f.Name, ""))
	}
	if version != Latest {
		r := *old
		r.Versions = maps.Clone(old.Versions)
		for n := range r.Versions {
			if strconv.Itoa(n) == version {
				delete(r.Versions, n)
			}
		}
		if _, err := s.store(ctx, &r, rev); err != nil {
			return err
		}
		s.sweep(ctx, old, &r)
		return nil
	}
	if qualifier == Latest {
		return errs.Errorf(op, errs.Invalid, "$LATEST version cannot be deleted without deleting the function.")
	}
	if rev, err = s.bucket.Update(ctx, recordPrefix+f.Name, nil, rev); err != nil {
		return err
	}
	s.seen(kv.Entry{Key: recordPrefix + f.Name, Revision: rev})
	s.sweep(ctx, old, &record{})
	return nil
}

// packages returns the packages a record names.
func (r *record) packages() []string {
	out := []string{r.Latest.Code}
	for _, cfg := range r.Versions {
		out = append(out, cfg.Code)
	}
	return out
}

// sweep drops the packages old named and nobody names any more. What it fails
// to drop stays, and is told.
func (s *Service) sweep(ctx context.Context, old, now *record) {
	if old == nil {
		return
	}
	named := map[string]bool{"": true}
	for _, sum := range now.packages() {
		named[sum] = true
	}
	s.mu.RLock()
	for _, f := range s.byName {
		for _, sum := range f.packages() {
			named[sum] = true
		}
	}
	s.mu.RUnlock()
	for _, cfg := range append(slices.Collect(maps.Values(old.Versions)), old.Latest) {
		if !named[cfg.Code] {
			named[cfg.Code] = true
			if err := s.codes.drop(ctx, cfg.Code, cfg.CodeSize); err != nil {
				s.logger.Warn("the code of a function that is gone stays", "code", cfg.Code, "err", err)
			}
		}
	}
}

// Package returns the zip file of a version. Errors: errs.NotFound.
func (s *Service) Package(ctx context.Context, ref, qualifier string) ([]byte, error) {
	_, cfg, _, err := s.find(ref, qualifier)
	if err != nil {
		return nil, err
	}
	return s.codes.get(ctx, cfg.Code, cfg.CodeSize)
}
