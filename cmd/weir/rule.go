package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/internal/rulefolder"
)

func (a *app) ruleCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "rule",
		Short: "Try out, test, apply, list, show, enable, disable and delete rules",
		Long: `A rule is a file in the shape of an AWS TopicRulePayload, JSON or YAML, with the rule's
name besides:

  ruleName: hot
  sql: SELECT deviceId, temperature FROM 'factory/+/device/+/telemetry' WHERE temperature > 40
  actions:
    - republish:
        topic: alerts/${topic(2)}
        qos: 1`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	a.ownerFlags(c)
	c.AddCommand(a.ruleEvalCmd(), a.ruleTestCmd(), a.ruleApplyCmd(), a.ruleListCmd(), a.ruleShowCmd(), a.ruleStatusCmd(),
		a.ruleSwitchCmd("enable", true), a.ruleSwitchCmd("disable", false), a.ruleDeleteCmd(),
		a.ruleBacktestCmd(), a.ruleCanaryCmd(), a.ruleBackfillCmd(), a.ruleGraphCmd())
	return c
}

func (a *app) ruleApplyCmd() *cobra.Command {
	var files []string
	var dry bool
	c := &cobra.Command{
		Use:   "apply -f FILE|DIR",
		Short: "Make or replace rules from files",
		Long: `Applies a file, the rule files of a folder (.json, .yaml, .yml), or standard input (-).
A file may hold several rules. Each file is checked as a whole: one with a mistake is refused
with line, column and a hint, and the other files are applied. A rule that has not changed
stays as it is.`,
		Example: `  weir rule apply -f hot.yaml
  weir rule apply -f rules/
  weir rule apply -f rules/ --dry-run
  cat hot.json | weir rule apply -f -`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(files) == 0 {
				return usagef("name a file, a folder or - with -f")
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			return a.applyFiles(cmd.Context(), cl, files, dry)
		},
	}
	c.Flags().StringArrayVarP(&files, "filename", "f", nil, "rule file, folder of rule files, or - (may be repeated)")
	c.Flags().BoolVar(&dry, "dry-run", false, "check only, change nothing")
	return c
}

func (a *app) applyFiles(ctx context.Context, cl *control.Client, names []string, dry bool) error {
	type one struct {
		File string `json:"file"`
		*control.Applied
		Error *control.ErrorInfo `json:"error,omitempty"`
	}
	var results []one
	failed := 0
	for _, name := range names {
		files, err := a.readRules(name)
		if err != nil {
			return err
		}
		for _, f := range files {
			applied, err := cl.Apply(ctx, f.Name, f.Content, dry)
			if err != nil {
				remote, ok := err.(*control.RemoteError)
				if !ok || remote.Status >= 500 {
					return a.unreachable(err)
				}
				failed++
				results = append(results, one{File: f.Name, Error: &remote.Info})
				if a.output != "json" {
					fmt.Fprintf(a.stderr, "%s\n", printableLines(located(f.Name, remote.Detail())))
				}
				continue
			}
			for i := range applied {
				rule := &applied[i]
				results = append(results, one{File: f.Name, Applied: rule})
				if a.output == "json" {
					continue
				}
				for _, w := range rule.Warnings {
					text := w.Detail
					if text == "" {
						text = w.Message
					}
					fmt.Fprintf(a.stderr, "warning: %s\n", printableLines(text))
				}
				fmt.Fprintf(a.stdout, "rule %s: %s\n", rule.Name, rule.Result)
			}
		}
	}
	if a.output == "json" {
		if err := a.printJSON(results); err != nil {
			return err
		}
	}
	if failed > 0 {
		text := ""
		if len(results) > 1 {
			text = fmt.Sprintf("%s refused, %d applied", plural(failed, "file", "files"), len(results)-failed)
		}
		return &exitError{exitRefused, text}
	}
	return nil
}

// located puts the file's name before a message that does not have it.
func located(file, text string) string {
	if strings.Contains(text, file) {
		return text
	}
	return file + ": " + text
}

// printableLines keeps line ends and tabs, which carets need, and nothing else
// that moves the cursor.
func printableLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		parts := strings.Split(l, "\t")
		for j, p := range parts {
			parts[j] = printable(p)
		}
		lines[i] = strings.Join(parts, "\t")
	}
	return strings.Join(lines, "\n")
}

func (a *app) readRules(name string) ([]rulefolder.File, error) {
	if name == "-" {
		b, err := io.ReadAll(io.LimitReader(a.stdin, rulefolder.MaxFile+1))
		return []rulefolder.File{{Name: "stdin", Content: b}}, err
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		f, err := rulefolder.ReadFile(name)
		return []rulefolder.File{f}, err
	}
	files, err := rulefolder.Read(name)
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("%s holds no rule file (.json, .yaml, .yml)", name)
	}
	return files, err
}

func (a *app) ruleListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"},
		Short: "List the rules with what became of their results",
		Example: `  weir rule list
  weir rule list -o json | jq -r '.[].ruleName'`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			list, err := cl.Rules(cmd.Context())
			if err != nil {
				return a.unreachable(err)
			}
			if a.output == "json" {
				return a.printJSON(list)
			}
			if len(list) == 0 {
				fmt.Fprintln(a.stdout, "no rules; make one with `weir rule apply -f FILE`")
				return nil
			}
			w := table(a.stdout)
			fmt.Fprintln(w, "RULE\tACTION\tSTATE\tMATCHED\tDELIVERED\tERROR ACTION\tDEAD\tPENDING")
			for _, r := range list {
				for _, l := range lanesOf(&r) {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, l.Action, l.State,
						count(l.Matched), count(l.Delivered), count(l.ErrorDelivered), count(l.Dead), count(l.Pending))
				}
			}
			return w.Flush()
		},
	}
}

// lanesOf returns r's actions with a state a person understands; a rule that
// has none, or does not run, has one line all the same.
func lanesOf(r *control.Rule) []control.Lane {
	lanes := r.Actions
	if len(lanes) == 0 {
		lanes = []control.Lane{{Action: "-"}}
	}
	for i := range lanes {
		switch {
		case r.Problem != "":
			lanes[i].State = "broken"
		case !r.Enabled:
			lanes[i].State = "disabled"
		}
	}
	return lanes
}

func (a *app) ruleShowCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME",
		Short: "Print a rule's document",
		Example: `  weir rule show hot
  weir rule show hot > hot.json && weir rule apply -f hot.json`,
		Args: arguments(1, 1, "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			r, err := cl.Rule(cmd.Context(), args[0])
			if err != nil {
				return a.unreachable(err)
			}
			if a.output == "json" {
				return a.printJSON(r)
			}
			// Indenting shows the document as it is; decoding would sort its keys.
			return a.printJSON(json.RawMessage(r.Document))
		},
	}
}

func (a *app) ruleStatusCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "status NAME",
		Short:   "Show what a rule does and what became of its results",
		Example: `  weir rule status hot`,
		Args:    arguments(1, 1, "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			r, err := cl.Rule(cmd.Context(), args[0])
			if err != nil {
				return a.unreachable(err)
			}
			if a.output == "json" {
				return a.printJSON(r)
			}
			state := "enabled"
			if !r.Enabled {
				state = "disabled"
			}
			w := table(a.stdout)
			fmt.Fprintf(w, "rule\t%s, version %d, %s\n", r.Name, r.Version, state)
			if r.Description != "" {
				fmt.Fprintf(w, "about\t%s\n", printable(r.Description))
			}
			fmt.Fprintf(w, "sql\t%s\n", printable(r.SQL))
			fmt.Fprintf(w, "changed\t%s (%s)\n", r.UpdatedAt.Local().Format("2006-01-02 15:04:05"), ago(r.UpdatedAt))
			fmt.Fprintf(w, "behind\t%s\n", plural(int(r.Lag), "event", "events"))
			if r.Problem != "" {
				fmt.Fprintf(w, "problem\t%s\n", printable(r.Problem))
			}
			for i, l := range lanesOf(r) {
				fmt.Fprintf(w, "action %d\t%s, %s\n", i+1, l.Action, l.State)
				fmt.Fprintf(w, "\tmatched %s = delivered %s + error action %s + dead %s + pending %s\n",
					count(l.Matched), count(l.Delivered), count(l.ErrorDelivered), count(l.Dead), count(l.Pending))
				if l.Retries > 0 {
					fmt.Fprintf(w, "\t%s failed since the start\n", plural(int(l.Retries), "try", "tries"))
				}
				if l.LastError != "" {
					fmt.Fprintf(w, "\tlast failure %s: %s\n", ago(l.LastFailed), printable(l.LastError))
				}
				if !l.DownSince.IsZero() {
					fmt.Fprintf(w, "\tthe destination has not answered since %s\n", l.DownSince.Local().Format("15:04:05"))
				}
			}
			return w.Flush()
		},
	}
}

func (a *app) ruleSwitchCmd(verb string, enabled bool) *cobra.Command {
	short := "Let a rule act again, from now on"
	if !enabled {
		short = "Stop a rule; what it has matched is still delivered"
	}
	return &cobra.Command{
		Use:     verb + " NAME…",
		Short:   short,
		Example: "  weir rule " + verb + " hot",
		Args:    arguments(1, -1, "NAME…"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.eachRule(cmd.Context(), args, verb+"d", func(ctx context.Context, cl *control.Client, name string) error {
				return cl.SetEnabled(ctx, name, enabled)
			})
		},
	}
}

func (a *app) ruleDeleteCmd() *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME…", Aliases: []string{"rm"},
		Short:   "Delete rules; what they have matched is still delivered",
		Example: "  weir rule delete hot",
		Args:    arguments(1, -1, "NAME…"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.eachRule(cmd.Context(), args, "deleted", func(ctx context.Context, cl *control.Client, name string) error {
				return cl.DeleteRule(ctx, name)
			})
		},
	}
}

func (a *app) eachRule(ctx context.Context, names []string, done string, do func(context.Context, *control.Client, string) error) error {
	cl, err := a.client()
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := do(ctx, cl, name); err != nil {
			return a.unreachable(err)
		}
		if a.output == "json" {
			if err := a.printJSON(map[string]string{"ruleName": name, "result": done}); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(a.stdout, "rule %s: %s\n", name, done)
	}
	return nil
}
