package main

import (
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/rules/replay"
)

func (a *app) ruleCanaryCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "canary",
		Short: "Run a changed rule beside the current one, its actions suppressed",
		Long: `A canary evaluates a changed rule on every message that comes in, beside the version that
runs, and counts where they differ. It delivers nothing. Promote it to put it in the place of
the version that runs, or drop it.`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(a.canaryStartCmd(), a.canaryListCmd(), a.canaryShowCmd(), a.canaryPromoteCmd(), a.canaryDropCmd())
	return c
}

func (a *app) canaryStartCmd() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:     "start -f FILE",
		Short:   "Start a canary: the file's rule beside the one that runs under its name",
		Example: `  weir rule canary start -f hot.yaml`,
		Args:    arguments(0, 1, "[NAME]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" {
				return usagef("name the changed rule's file with -f")
			}
			q, err := a.ruleText(file, args)
			if err != nil {
				return err
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			j, err := cl.StartCanary(cmd.Context(), q)
			if err != nil {
				return a.unreachable(err)
			}
			if a.output == "json" {
				return a.printJSON(j)
			}
			fmt.Fprintf(a.stdout, "canary of rule %s beside version %d: weir rule canary show %s\n", j.Rule.Name, j.Version, j.Rule.Name)
			return nil
		},
	}
	c.Flags().StringVarP(&file, "filename", "f", "", "rule file, or - for standard input")
	return c
}

func (a *app) canaryListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"},
		Short: "List the canaries with what they found",
		Args:  arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			list, err := cl.Canaries(cmd.Context())
			if err != nil {
				return a.unreachable(err)
			}
			if a.output == "json" {
				return a.printJSON(list)
			}
			if len(list) == 0 {
				fmt.Fprintln(a.stdout, "no canaries")
				return nil
			}
			w := table(a.stdout)
			fmt.Fprintln(w, "RULE\tBESIDE\tSINCE\tEVENTS\tSAME\tAPPEAR\tVANISH\tCHANGE\tERRORS\tSTATE")
			for _, j := range list {
				t := j.Tally
				fmt.Fprintf(w, "%s\tversion %d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", j.Rule.Name, j.Version, ago(j.Created),
					count(t.Events), count(t.Same), count(t.Appear), count(t.Vanish), count(t.Change), count(t.Errors), j.State)
			}
			return w.Flush()
		},
	}
}

func (a *app) canaryShowCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "show RULE",
		Short:   "Show what a canary found, with samples",
		Example: `  weir rule canary show hot`,
		Args:    arguments(1, 1, "RULE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			j, err := cl.Canary(cmd.Context(), args[0])
			if err != nil {
				return a.unreachable(err)
			}
			if a.output == "json" {
				return a.printJSON(j)
			}
			a.printCanary(j)
			return nil
		},
	}
}

func (a *app) printCanary(j *replay.Job) {
	fmt.Fprintf(a.stdout, "canary of rule %s beside version %d, %s, started %s\n", j.Rule.Name, j.Version, j.State, ago(j.Created))
	if j.Reason != "" {
		fmt.Fprintf(a.stdout, "  %s\n", printable(j.Reason))
	}
	t := table(a.stdout)
	fmt.Fprintf(t, "  events\t%s\n  errors\t%s\n", count(j.Tally.Events), count(j.Tally.Errors))
	for _, kind := range slices.Sorted(maps.Keys(j.Tally.Kinds)) {
		fmt.Fprintf(t, "    %s\t%s\n", short(printable(kind), 80), count(j.Tally.Kinds[kind]))
	}
	if j.Trimmed > 0 {
		fmt.Fprintf(t, "  trimmed before they were read\t%s\n", count(j.Trimmed))
	}
	t.Flush()
	printComparison(a.stdout, j.Tally)
	printSamples(a.stdout, j.Samples, true)
}

func (a *app) canaryPromoteCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "promote RULE",
		Short:   "Put the canary's version in the place of the one that runs",
		Example: `  weir rule canary promote hot`,
		Args:    arguments(1, 1, "RULE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			applied, err := cl.Promote(cmd.Context(), args[0])
			if err != nil {
				return a.unreachable(err)
			}
			if a.output == "json" {
				return a.printJSON(applied)
			}
			fmt.Fprintf(a.stdout, "rule %s: %s\n", applied.Name, applied.Result)
			return nil
		},
	}
}

func (a *app) canaryDropCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "drop RULE",
		Short:   "End a canary; the version that runs stays",
		Example: `  weir rule canary drop hot`,
		Args:    arguments(1, 1, "RULE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			if err := cl.Drop(cmd.Context(), args[0]); err != nil {
				return a.unreachable(err)
			}
			if a.output == "json" {
				return a.printJSON(map[string]string{"ruleName": args[0], "result": "dropped"})
			}
			fmt.Fprintf(a.stdout, "canary of rule %s: dropped\n", args[0])
			return nil
		},
	}
}
