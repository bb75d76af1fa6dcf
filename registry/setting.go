package registry

import (
	"context"
	"slices"
	"strings"
)

// LogLevel is how much is logged.
type LogLevel string

const (
	LogDebug    LogLevel = "DEBUG"
	LogInfo     LogLevel = "INFO"
	LogWarn     LogLevel = "WARN"
	LogError    LogLevel = "ERROR"
	LogDisabled LogLevel = "DISABLED"
)

func (l LogLevel) check() error {
	switch l {
	case LogDebug, LogInfo, LogWarn, LogError, LogDisabled:
		return nil
	}
	return invalid("%q is no log level: DEBUG, INFO, WARN, ERROR or DISABLED", clip(string(l)))
}

// LoggingOptions are the V2 logging options.
type LoggingOptions struct {
	RoleARN    string     `json:"roleArn,omitempty"`
	Default    LogLevel   `json:"defaultLogLevel,omitempty"`
	DisableAll bool       `json:"disableAllLogs,omitempty"`
	Events     []LogEvent `json:"eventConfigurations,omitempty"`
}

// LogEvent sets the level of one type of event.
type LogEvent struct {
	Type        string   `json:"eventType"`
	Level       LogLevel `json:"logLevel,omitempty"`
	Destination string   `json:"logDestination,omitempty"`
}

// SetLoggingOptions replaces the V2 logging options.
func (r *Registry) SetLoggingOptions(ctx context.Context, o LoggingOptions) error {
	return r.Change(ctx, "registry.SetV2LoggingOptions", func(tx *Tx) error {
		if o.Default != "" {
			if err := o.Default.check(); err != nil {
				return err
			}
		}
		if o.RoleARN != "" {
			if err := checkRole(o.RoleARN); err != nil {
				return err
			}
		}
		seen := map[string]bool{}
		for _, e := range o.Events {
			if e.Type == "" || len(e.Type) > 512 || seen[e.Type] {
				return invalid("event type %q: 1 to 512 characters, each type once", clip(e.Type))
			}
			seen[e.Type] = true
			if e.Level != "" {
				if err := e.Level.check(); err != nil {
					return err
				}
			}
			if e.Destination != "" {
				if err := logDestination.check(e.Destination); err != nil {
					return err
				}
			}
		}
		put(tx, r.settings.logging, single, &o)
		return nil
	})
}

// LoggingOptions returns the V2 logging options.
// Error: NotConfigured (errs.NotFound).
func (r *Registry) LoggingOptions() (*LoggingOptions, error) {
	return read(r, "GetV2LoggingOptions", func(tx *Tx) (*LoggingOptions, error) { return tx.logging() })
}

func (tx *Tx) logging() (*LoggingOptions, error) {
	if o := get(tx, tx.r.settings.logging, single); o != nil {
		return o, nil
	}
	return nil, fail(NotConfigured, "the logging options have not been set")
}

// LogTarget is what a log level is of.
type LogTarget struct {
	Type string `json:"targetType"` // DEFAULT, THING_GROUP, CLIENT_ID, SOURCE_IP, PRINCIPAL_ID
	Name string `json:"targetName,omitempty"`
}

// TargetLevel is the log level of a target.
type TargetLevel struct {
	Target LogTarget `json:"logTarget"`
	Level  LogLevel  `json:"logLevel"`
}

func (t LogTarget) check() error {
	switch t.Type {
	case "DEFAULT":
		if t.Name != "" {
			return invalid("the target DEFAULT has no name")
		}
		return nil
	case "THING_GROUP":
		return groupName.check(t.Name)
	case "CLIENT_ID", "SOURCE_IP", "PRINCIPAL_ID":
		if t.Name == "" || len(t.Name) > 256 {
			return invalid("the name of a log target has 1 to 256 characters, this one has %d", len(t.Name))
		}
		return nil
	}
	return invalid("%q is no type of log target: DEFAULT, THING_GROUP, CLIENT_ID, SOURCE_IP or PRINCIPAL_ID", clip(t.Type))
}

func (t LogTarget) key() string { return t.Type + "/" + t.Name }

// SetLogLevel sets the log level of a target. For DEFAULT it is that of the
// logging options. Errors: NotConfigured, InvalidRequest.
func (r *Registry) SetLogLevel(ctx context.Context, t LogTarget, l LogLevel) error {
	return r.Change(ctx, "registry.SetV2LoggingLevel", func(tx *Tx) error {
		if err := t.check(); err != nil {
			return err
		}
		if err := l.check(); err != nil {
			return err
		}
		o, err := tx.logging()
		if err != nil {
			return err
		}
		if t.Type == "DEFAULT" {
			n := *o
			n.Default = l
			put(tx, r.settings.logging, single, &n)
			return nil
		}
		put(tx, r.logLevels, t.key(), &TargetLevel{t, l})
		return nil
	})
}

// LogLevels lists the log levels of targets by type and name; targetType "": of
// all.
func (r *Registry) LogLevels(targetType string, p Page) ([]*TargetLevel, string, error) {
	return readPage(r, "ListV2LoggingLevels", func(tx *Tx) ([]*TargetLevel, string, error) {
		if _, err := tx.logging(); err != nil {
			return nil, "", err
		}
		return pageOf(&r.logLevels.order, p, "log levels\x00"+targetType, false, func(_ string, l *TargetLevel) (*TargetLevel, bool) {
			return l, targetType == "" || l.Target.Type == targetType
		})
	})
}

// DeleteLogLevel removes the log level of a target. Where there is none is no
// error.
func (r *Registry) DeleteLogLevel(ctx context.Context, t LogTarget) error {
	return r.Change(ctx, "registry.DeleteV2LoggingLevel", func(tx *Tx) error {
		if err := t.check(); err != nil {
			return err
		}
		if get(tx, r.logLevels, t.key()) != nil {
			drop(tx, r.logLevels, t.key())
		}
		return nil
	})
}

// Field is a field of the fleet index.
type Field struct {
	Name string `json:"name"`
	Type string `json:"type"` // Number, String, Boolean
}

// Indexing says what the fleet index covers. The zero value: nothing.
type Indexing struct {
	Things       string   `json:"thingIndexingMode,omitempty"`             // OFF, REGISTRY, REGISTRY_AND_SHADOW
	Connectivity string   `json:"thingConnectivityIndexingMode,omitempty"` // OFF, STATUS
	NamedShadow  string   `json:"namedShadowIndexingMode,omitempty"`       // OFF, ON
	ShadowNames  []string `json:"namedShadowNames,omitempty"`
	ThingFields  []Field  `json:"thingCustomFields,omitempty"`
	Groups       string   `json:"thingGroupIndexingMode,omitempty"` // OFF, ON
	GroupFields  []Field  `json:"thingGroupCustomFields,omitempty"`
}

var shadowName = newRule("shadow name", 1, 64, alnum+"$:_-", "[$a-zA-Z0-9:_-]+")

// SetIndexing replaces the indexing configuration.
func (r *Registry) SetIndexing(ctx context.Context, in Indexing) error {
	return r.Change(ctx, "registry.UpdateIndexingConfiguration", func(tx *Tx) error {
		for _, m := range []struct {
			what, is string
			of       []string
		}{
			{"thing indexing", in.Things, []string{"OFF", "REGISTRY", "REGISTRY_AND_SHADOW"}}, {"connectivity indexing", in.Connectivity, []string{"OFF", "STATUS"}},
			{"named shadow indexing", in.NamedShadow, []string{"OFF", "ON"}}, {"thing group indexing", in.Groups, []string{"OFF", "ON"}},
		} {
			if m.is != "" && !slices.Contains(m.of, m.is) {
				return invalid("%q is no mode of %s: %s", clip(m.is), m.what, strings.Join(m.of, ", "))
			}
		}
		if off(in.Things) && (!off(in.Connectivity) || !off(in.NamedShadow) || len(in.ThingFields) > 0) {
			return invalid("connectivity, named shadows and fields of things are indexed only where things are")
		}
		if off(in.NamedShadow) && len(in.ShadowNames) > 0 {
			return invalid("shadow names are given and named shadows are not indexed")
		}
		if len(in.ShadowNames) > 10 || len(in.ThingFields) > 20 || len(in.GroupFields) > 20 {
			return fail(LimitExceeded, "at most 10 shadow names and 20 fields can be indexed")
		}
		for _, n := range in.ShadowNames {
			if err := shadowName.check(n); err != nil {
				return err
			}
		}
		for _, f := range slices.Concat(in.ThingFields, in.GroupFields) {
			if f.Name == "" || len(f.Name) > 1024 || !slices.Contains([]string{"Number", "String", "Boolean"}, f.Type) {
				return invalid("a field has a name, and a type: Number, String or Boolean; found %q of %q", clip(f.Name), clip(f.Type))
			}
		}
		put(tx, r.settings.indexing, single, &in)
		return nil
	})
}

func off(mode string) bool { return mode == "" || mode == "OFF" }

// Indexing returns the indexing configuration.
func (r *Registry) Indexing() Indexing {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if i := r.settings.indexing.rows[single].v; i != nil {
		return *i
	}
	return Indexing{}
}
