package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/rules/lane"
	"github.com/weir-iot/weir/rules/replay"
)

func (a *app) ruleBackfillCmd() *cobra.Command {
	var file, since, until string
	var q control.BackfillRequest
	var preview, detach bool
	c := &cobra.Command{
		Use:   "backfill -f FILE | NAME",
		Short: "Deliver what a rule makes of stored events",
		Long: `Evaluates a rule over the log and delivers the results to its actions, with the tries and
dead letters of every delivery. A rule that is stored and enabled has handled what came since it
began: a backfill ends there, unless --again says otherwise. The message ids are those of the
events, so a destination can tell a repeat. A backfill goes on after a restart of Weir, from
where it stands; look at it first with --preview.`,
		Example: `  weir rule backfill hot --since 24h --preview
  weir rule backfill hot --since 24h --rate 500
  weir rule backfill list
  weir rule backfill stop 4f0c1a2b3c`,
		Args: cobra.MaximumNArgs(1), // a rule's name, though there are sub-commands
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if q.RuleText, err = a.ruleText(file, args); err != nil {
				return err
			}
			if q.Since, q.Until, err = span(since, until); err != nil {
				return err
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			if preview {
				return a.previewBackfill(cmd.Context(), cl, q)
			}
			j, err := cl.StartBackfill(cmd.Context(), q)
			if err != nil {
				return a.unreachable(err)
			}
			if detach {
				return a.printBackfill(j)
			}
			if a.output != "json" {
				fmt.Fprintf(a.stderr, "backfill %s; it goes on without this command: weir rule backfill show %s\n", j.ID, j.ID)
			}
			return a.watchBackfill(cmd.Context(), cl, j)
		},
	}
	c.Flags().StringVarP(&file, "filename", "f", "", "rule file, or - for standard input")
	c.Flags().StringVar(&since, "since", "", "begin with events that arrived then: "+spanHelp+"; default: the whole log")
	c.Flags().StringVar(&until, "until", "", "end with events that arrived then")
	c.Flags().Float64Var(&q.Rate, "rate", 0, "results a second at most; 0: as fast as the actions take them")
	c.Flags().BoolVar(&q.Again, "again", false, "deliver also what the stored rule has handled itself")
	c.Flags().BoolVar(&preview, "preview", false, "tell what would be delivered, and deliver nothing")
	c.Flags().BoolVar(&detach, "detach", false, "do not wait for its end")
	c.AddCommand(a.backfillListCmd(), a.backfillShowCmd(), a.backfillChangeCmd("stop", "Stop a backfill; what was handed over is still delivered"),
		a.backfillChangeCmd("resume", "Let a stopped or failed backfill go on from where it stands"), a.backfillDeleteCmd())
	return c
}

func (a *app) previewBackfill(ctx context.Context, cl *control.Client, q control.BackfillRequest) error {
	if !q.Again && q.Content == "" {
		// The same end as the backfill's: where the stored rule began.
		r, err := cl.Rule(ctx, q.Name)
		if err != nil {
			return a.unreachable(err)
		}
		if r.Enabled && (q.Until.IsZero() || r.UpdatedAt.Before(q.Until)) {
			q.Until = r.UpdatedAt
		}
	}
	var report *control.BacktestReport
	var samples []replay.Sample
	p := newProgress(a.stderr, "preview")
	err := cl.Backtest(ctx, control.BacktestRequest{RuleText: q.RuleText, Since: q.Since, Until: q.Until, Samples: 3, Lookups: true}, func(l *control.BacktestLine, _ []byte) error {
		switch {
		case l.Progress != nil:
			p.at(l.Progress.Read, l.Progress.Total, count(l.Progress.Results)+" results")
		case l.Outcome != nil:
			samples = append(samples, *l.Outcome)
		case l.Report != nil:
			report = l.Report
		}
		return nil
	})
	p.end()
	if err != nil {
		return a.unreachable(err)
	}
	if a.output == "json" {
		return a.printJSON(report)
	}
	printBacktest(a.stdout, report, samples)
	fmt.Fprintln(a.stdout, "\na preview: nothing was delivered")
	return nil
}

// watchBackfill waits until the backfill has ended.
func (a *app) watchBackfill(ctx context.Context, cl *control.Client, j *replay.Job) error {
	p := newProgress(a.stderr, "backfill")
	t := time.NewTicker(200 * time.Millisecond)
	defer t.Stop()
	for j.State == replay.Running {
		select {
		case <-t.C:
		case <-ctx.Done():
			p.end()
			return ctx.Err()
		}
		var err error
		if j, err = cl.Backfill(ctx, j.ID); err != nil {
			p.end()
			return a.unreachable(err)
		}
		var delivered uint64
		for _, c := range j.Account() {
			delivered += c.Delivered
		}
		read, total := j.Progress()
		p.at(read, total, count(delivered)+" delivered")
	}
	p.end()
	if err := a.printBackfill(j); err != nil {
		return err
	}
	if j.State == replay.Failed {
		return &exitError{code: exitFailure}
	}
	return nil
}

func (a *app) printBackfill(j *replay.Job) error {
	if a.output == "json" {
		return a.printJSON(j)
	}
	read, total := j.Progress()
	fmt.Fprintf(a.stdout, "backfill %s of rule %s: %s, %s of %s events", j.ID, j.Rule.Name, j.State, count(read), count(total))
	if j.Trimmed > 0 {
		fmt.Fprintf(a.stdout, ", %s trimmed before they were read", count(j.Trimmed))
	}
	fmt.Fprintln(a.stdout)
	if j.Reason != "" {
		fmt.Fprintf(a.stdout, "  %s\n", printable(j.Reason))
	}
	w := table(a.stdout)
	fmt.Fprintln(w, "  ACTION\tDELIVERED\tBY ERROR ACTION\tDEAD")
	for i, c := range j.Account() {
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", j.Rule.Actions[i].Kind, count(c.Delivered), count(c.ErrorDelivered), count(c.Dead))
	}
	return w.Flush()
}

func (a *app) backfillListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"},
		Short: "List the backfills, the newest first",
		Args:  arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			list, err := cl.Backfills(cmd.Context())
			if err != nil {
				return a.unreachable(err)
			}
			if a.output == "json" {
				return a.printJSON(list)
			}
			if len(list) == 0 {
				fmt.Fprintln(a.stdout, "no backfills")
				return nil
			}
			w := table(a.stdout)
			fmt.Fprintln(w, "ID\tRULE\tSTARTED\tSTATE\tEVENTS\tDELIVERED\tDEAD")
			for _, j := range list {
				var sum lane.Counts
				for _, c := range j.Account() {
					sum.Add(c)
				}
				read, total := j.Progress()
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s of %s\t%s\t%s\n", j.ID, j.Rule.Name, ago(j.Created), j.State, count(read), count(total), count(sum.Delivered), count(sum.Dead))
			}
			return w.Flush()
		},
	}
}

func (a *app) backfillShowCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "show ID",
		Short: "Show how far a backfill is",
		Args:  arguments(1, 1, "ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			j, err := cl.Backfill(cmd.Context(), args[0])
			if err != nil {
				return a.unreachable(err)
			}
			return a.printBackfill(j)
		},
	}
}

func (a *app) backfillChangeCmd(verb, short string) *cobra.Command {
	return &cobra.Command{
		Use:   verb + " ID",
		Short: short,
		Args:  arguments(1, 1, "ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			j, err := cl.ChangeBackfill(cmd.Context(), args[0], verb)
			if err != nil {
				return a.unreachable(err)
			}
			return a.printBackfill(j)
		},
	}
}

func (a *app) backfillDeleteCmd() *cobra.Command {
	return &cobra.Command{
		Use: "delete ID", Aliases: []string{"rm"},
		Short: "Forget a backfill that does not run",
		Args:  arguments(1, 1, "ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			if err := cl.DeleteBackfill(cmd.Context(), args[0]); err != nil {
				return a.unreachable(err)
			}
			fmt.Fprintf(a.stdout, "backfill %s: deleted\n", args[0])
			return nil
		},
	}
}
