package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/shadow"
)

func (a *app) shadowCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "shadow",
		Short: "Read, change and look back at the shadows of things",
		Long: `A shadow holds what is wanted of a thing (desired) and what it says of itself (reported).
Every change is a version of its own; the past stays for as long as shadow.history and
shadow.keep say. Without --name it is the unnamed shadow.`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	a.ownerFlags(c)
	c.AddCommand(a.shadowListCmd(), a.shadowGetCmd(), a.shadowUpdateCmd(), a.shadowDeleteCmd(), a.shadowLogCmd(), a.shadowDiffCmd(), a.shadowRestoreCmd())
	return c
}

// shadowName adds --name.
func shadowName(c *cobra.Command, name *string) {
	c.Flags().StringVar(name, "name", "", "a named shadow (default the unnamed one)")
}

// versionFlags are --version and --at.
type versionFlags struct {
	version uint64
	at      string
}

func (f *versionFlags) add(c *cobra.Command) {
	c.Flags().Uint64Var(&f.version, "version", 0, "this version")
	c.Flags().StringVar(&f.at, "at", "", "the version at this time, such as 2026-11-20T10:00Z, or this long ago, such as 90m")
}

// query returns the parameters of the API; set is false where no version is meant.
func (f *versionFlags) query(name string) (q url.Values, set bool, err error) {
	q = url.Values{"name": {name}}
	if f.version > 0 && f.at != "" {
		return nil, false, usagef("--version and --at: one of them")
	}
	if f.version > 0 {
		q.Set("version", strconv.FormatUint(f.version, 10))
	}
	if f.at != "" {
		t, err := parseAt(f.at, time.Now())
		if err != nil {
			return nil, false, err
		}
		q.Set("at", t.UTC().Format(time.RFC3339Nano))
	}
	return q, f.version > 0 || f.at != "", nil
}

func parseAt(s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04Z07:00"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	for _, layout := range []string{"2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usagef("--at: expected a time such as 2026-11-20T10:00Z or a duration such as 90m, found %q", s)
}

func (a *app) shadowListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list [THING]", Aliases: []string{"ls"},
		Short:   "List shadows, and which of them wait for a report",
		Example: "  weir shadow list\n  weir shadow list lamp-7",
		Args:    arguments(0, 1, "[THING]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			thing := ""
			if len(args) == 1 {
				thing = args[0]
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			list, err := cl.Shadows(cmd.Context(), thing)
			if err != nil {
				return a.unreachable(err)
			}
			if a.output == "json" {
				return a.printJSON(list)
			}
			if len(list) == 0 {
				fmt.Fprintln(a.stdout, "no shadows")
				return nil
			}
			w := table(a.stdout)
			fmt.Fprintln(w, "THING\tSHADOW\tVERSION\tCHANGED\tDELTA SINCE")
			for _, s := range list {
				name, apart := "-", "-"
				if s.Name != "" {
					name = s.Name
				}
				if !s.Apart.IsZero() {
					apart = ago(s.Apart)
				}
				fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\n", s.Thing, name, s.Version, ago(s.Time), apart)
			}
			return w.Flush()
		},
	}
}

// printDocument writes a JSON document, with -o text over several lines.
func (a *app) printDocument(doc json.RawMessage) error {
	if a.output == "json" {
		return a.printJSON(doc)
	}
	var b bytes.Buffer
	if err := json.Indent(&b, doc, "", "  "); err != nil {
		return err
	}
	b.WriteByte('\n')
	_, err := a.stdout.Write(b.Bytes())
	return err
}

func (a *app) shadowGetCmd() *cobra.Command {
	var name string
	var at versionFlags
	c := &cobra.Command{
		Use:     "get THING",
		Short:   "Show a shadow as GetThingShadow does, now or in the past",
		Example: "  weir shadow get lamp-7\n  weir shadow get lamp-7 --name config --version 12\n  weir shadow get lamp-7 --at 2026-11-20T10:00Z",
		Args:    arguments(1, 1, "THING"),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, _, err := at.query(name)
			if err != nil {
				return err
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			d, err := cl.Shadow(cmd.Context(), args[0], q)
			if err != nil {
				return a.unreachable(err)
			}
			return a.printDocument(d.Document)
		},
	}
	shadowName(c, &name)
	at.add(c)
	return c
}

func (a *app) shadowUpdateCmd() *cobra.Command {
	var name, desired, reported string
	var version uint64
	c := &cobra.Command{
		Use:   "update THING [DOCUMENT]",
		Short: "Change a shadow",
		Long: `Merges a request document, as UpdateThingShadow does, or the sections given by flags. null
removes a member or a section. Without either, standard input is the document.`,
		Example: `  weir shadow update lamp-7 --desired '{"on": true}'
  weir shadow update lamp-7 '{"state": {"reported": {"on": true}}, "version": 4}'`,
		Args: arguments(1, 2, "THING [DOCUMENT]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var body []byte
			flags := desired != "" || reported != "" || version > 0
			switch {
			case flags && len(args) == 2:
				return usagef("the document is there twice: as an argument and by flags")
			case flags:
				state := map[string]json.RawMessage{}
				for section, text := range map[string]string{"desired": desired, "reported": reported} {
					if text == "" {
						continue
					}
					if !json.Valid([]byte(text)) {
						return usagef("--%s: not JSON: %s", section, text)
					}
					state[section] = json.RawMessage(text)
				}
				doc := map[string]any{"state": state}
				if version > 0 {
					doc["version"] = version
				}
				var err error
				if body, err = json.Marshal(doc); err != nil {
					return err
				}
			case len(args) == 2:
				body = []byte(args[1])
			default:
				var err error
				if body, err = io.ReadAll(io.LimitReader(a.stdin, maxPayload)); err != nil {
					return err
				}
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			out, err := cl.UpdateShadow(cmd.Context(), args[0], name, body)
			if err != nil {
				return a.unreachable(err)
			}
			return a.printDocument(out)
		},
	}
	shadowName(c, &name)
	c.Flags().StringVar(&desired, "desired", "", "what is wanted, a JSON `object`")
	c.Flags().StringVar(&reported, "reported", "", "what is, a JSON `object`")
	c.Flags().Uint64Var(&version, "version", 0, "only if this is the version now")
	return c
}

func (a *app) shadowDeleteCmd() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use:     "delete THING",
		Short:   "Delete a shadow; its past stays",
		Example: "  weir shadow delete lamp-7 --name config",
		Args:    arguments(1, 1, "THING"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			out, err := cl.DeleteShadow(cmd.Context(), args[0], name)
			if err != nil {
				return a.unreachable(err)
			}
			return a.printDocument(out)
		},
	}
	shadowName(c, &name)
	return c
}

func (a *app) shadowLogCmd() *cobra.Command {
	var name string
	var max int
	c := &cobra.Command{
		Use:     "log THING",
		Short:   "Show the versions of a shadow: who made them, when, and what changed",
		Example: "  weir shadow log lamp-7 --max 5",
		Args:    arguments(1, 1, "THING"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if max < 1 || max > 1000 {
				return usagef("--max: expected 1 to 1000")
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			list, err := cl.ShadowLog(cmd.Context(), args[0], name, max)
			if err != nil {
				return a.unreachable(err)
			}
			if a.output == "json" {
				return a.printJSON(list)
			}
			for _, v := range list {
				a.printVersion(&v)
			}
			return nil
		},
	}
	shadowName(c, &name)
	c.Flags().IntVar(&max, "max", 20, "how many, the newest first, at most 1000")
	return c
}

func (a *app) printVersion(v *control.ShadowVersion) {
	what := v.Op
	if v.Note != "" {
		what += ": " + v.Note
	}
	var by []string
	for _, s := range []string{v.By.ClientID, v.By.Principal, v.By.SourceIP, v.By.Via} {
		if s != "" {
			by = append(by, printable(s))
		}
	}
	fmt.Fprintf(a.stdout, "version %d  %s  %s  by %s\n", v.Version, v.Time.Local().Format("2006-01-02 15:04:05.000"), printable(what), strings.Join(by, ", "))
	a.printChanges(v.Changes)
}

func (a *app) printChanges(list []shadow.Difference) {
	for _, d := range list {
		switch {
		case d.Old == nil:
			fmt.Fprintf(a.stdout, "  + %s %s\n", printable(d.Path), printable(string(d.New)))
		case d.New == nil:
			fmt.Fprintf(a.stdout, "  - %s %s\n", printable(d.Path), printable(string(d.Old)))
		default:
			fmt.Fprintf(a.stdout, "  ~ %s %s → %s\n", printable(d.Path), printable(string(d.Old)), printable(string(d.New)))
		}
	}
}

func (a *app) shadowDiffCmd() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use:     "diff THING FROM [TO]",
		Short:   "Show what differs between two versions, or between one and now",
		Example: "  weir shadow diff lamp-7 11 12\n  weir shadow diff lamp-7 11",
		Args:    arguments(2, 3, "THING FROM [TO]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := url.Values{"name": {name}}
			for i, key := range []string{"from", "to"} {
				if len(args) < i+2 {
					continue
				}
				if n, err := strconv.ParseUint(args[i+1], 10, 63); err != nil || n == 0 {
					return usagef("%q is not the number of a version; `weir shadow log` shows them", args[i+1])
				}
				q.Set(key, args[i+1])
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			d, err := cl.ShadowDiff(cmd.Context(), args[0], q)
			if err != nil {
				return a.unreachable(err)
			}
			if a.output == "json" {
				return a.printJSON(d)
			}
			if len(d.Changes) == 0 {
				fmt.Fprintf(a.stdout, "versions %d and %d hold the same\n", d.From, d.To)
				return nil
			}
			a.printChanges(d.Changes)
			return nil
		},
	}
	shadowName(c, &name)
	return c
}

func (a *app) shadowRestoreCmd() *cobra.Command {
	var name string
	var at versionFlags
	var all bool
	c := &cobra.Command{
		Use:   "restore THING (--version N | --at TIME)",
		Short: "Make a version of the past the next one",
		Long: `Makes desired what it was in a version of the past; the device gets the delta as after any
change. With --all the reported state and the tags become what they were too: what the
device says of itself is then old. A deleted shadow comes back.`,
		Example: "  weir shadow restore lamp-7 --version 12\n  weir shadow restore lamp-7 --at 2026-11-20T10:00Z --all",
		Args:    arguments(1, 1, "THING"),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, set, err := at.query(name)
			if err != nil {
				return err
			}
			if !set {
				return usagef("say which: --version or --at")
			}
			q.Set("all", strconv.FormatBool(all))
			cl, err := a.client()
			if err != nil {
				return err
			}
			d, err := cl.RestoreShadow(cmd.Context(), args[0], q)
			if err != nil {
				return a.unreachable(err)
			}
			return a.printDocument(d.Document)
		},
	}
	shadowName(c, &name)
	at.add(c)
	c.Flags().BoolVar(&all, "all", false, "reported and tags too")
	return c
}
