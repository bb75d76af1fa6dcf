package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/control"
)

func (a *app) explainCmd() *cobra.Command {
	var q control.ExplainQuery
	c := &cobra.Command{
		Use:   "explain TRACE-ID | PARTITION:SEQUENCE",
		Short: "Tell what became of a message: every rule, every operand, every delivery",
		Long: `Tells of one message, or of the last ones of a topic: which rules saw it and which just missed
its topic, why a rule acted or did not (the WHERE clause with the value of every operand), what
it selected, and what became of the result at each action. The trace id is the one traceid(),
error actions, dead letters and webhooks carry.

It is worked out from the log when it is asked for: what a function looks up elsewhere may have
been different when the message came.`,
		Example: `  weir explain 019c9a3e-5c40-8000-8000-000000000001
  weir explain 0:1234
  weir explain --topic 'factory/+/device/17/telemetry' --last 5`,
		Args: arguments(0, 1, "[TRACE-ID]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				q.ID = args[0]
			}
			if (q.ID == "") == (q.Topic == "") {
				return usagef("name a message by its trace id or place, or --topic")
			}
			if q.Last < 1 || q.Last > 100 {
				return usagef("--last: expected 1 to 100")
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			list, err := cl.Explain(cmd.Context(), q)
			if err != nil {
				return a.unreachable(err)
			}
			if a.output == "json" {
				return a.printJSON(list)
			}
			for i := range list {
				if i > 0 {
					fmt.Fprintln(a.stdout)
				}
				a.printExplained(&list[i])
			}
			return nil
		},
	}
	c.Flags().StringVar(&q.Topic, "topic", "", "the last messages whose topic matches this filter")
	c.Flags().IntVarP(&q.Last, "last", "n", 1, "with --topic: how many")
	a.ownerFlags(c)
	return c
}

func (a *app) printExplained(x *control.Explained) {
	w, e := a.stdout, &x.Event
	fmt.Fprintf(w, "%s  %s", e.Received.Local().Format("2006-01-02 15:04:05.000"), printable(e.Topic))
	if e.ClientID != "" {
		fmt.Fprintf(w, "  (%s)", printable(e.ClientID))
	}
	fmt.Fprintf(w, "\n  place %d:%d, trace id %s\n  %s\n", e.Partition, e.Seq, e.ID, short(contentText(e.Content), 1000))
	if x.Note != "" {
		fmt.Fprintf(w, "  %s\n", x.Note)
	}
	if len(x.Rules) == 0 && x.Note == "" {
		fmt.Fprintln(w, "  no rule has a FROM that matches this topic")
	}
	for _, r := range x.Rules {
		fmt.Fprintf(w, "\nrule %s", r.Name)
		if r.Version > 0 {
			fmt.Fprintf(w, ", version %d", r.Version)
		}
		fmt.Fprintln(w)
		for line := range strings.Lines(printableLines(r.Text)) {
			fmt.Fprintf(w, "  %s", line)
		}
		if r.Text != "" {
			fmt.Fprintln(w)
		}
		if r.LookedUp {
			fmt.Fprintln(w, "  note     what functions looked up is recomputed: it may have been different then")
		}
		if r.Note != "" {
			fmt.Fprintf(w, "  note     %s\n", r.Note)
		}
		for _, d := range r.Deliveries {
			fmt.Fprintf(w, "  action   %s: %s", d.Action, d.State)
			if d.Detail != "" {
				fmt.Fprintf(w, " (%s)", d.Detail)
			}
			fmt.Fprintln(w)
			for _, t := range d.Attempts {
				fmt.Fprintf(w, "           %s  %s\n", t.Time.Local().Format("15:04:05.000"), printable(t.Error))
			}
		}
	}
	for i, n := range x.Near {
		if i == 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "rule %s just misses: %s (FROM '%s')\n", n.Name, printable(n.Why), printable(n.Filter))
	}
}
