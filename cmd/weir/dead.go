package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/control"
)

func (a *app) deadCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "dead",
		Short: "List, show and redrive dead letters",
		Long: `A dead letter is a result that its action and the rule's error action have given up.
Nothing is lost: it stays in the stream DEAD until it is delivered again, or until that
stream's limit makes room for newer ones.`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	a.ownerFlags(c)
	c.AddCommand(a.deadListCmd(), a.deadShowCmd(), a.deadRedriveCmd())
	return c
}

func (a *app) deadListCmd() *cobra.Command {
	var rule string
	var after uint64
	var max int
	c := &cobra.Command{
		Use: "list", Aliases: []string{"ls"},
		Short: "List dead letters, oldest first",
		Example: `  weir dead list
  weir dead list --rule hot --max 10
  weir dead list -o json | jq -r '.[].reason' | sort | uniq -c`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if max < 1 || max > 1000 {
				return usagef("--max: expected 1 to 1000")
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			list, err := cl.Dead(cmd.Context(), rule, after, max)
			if err != nil {
				return a.unreachable(err)
			}
			if a.output == "json" {
				return a.printJSON(list)
			}
			if len(list) == 0 {
				fmt.Fprintln(a.stdout, "no dead letters")
				return nil
			}
			w := table(a.stdout)
			fmt.Fprintln(w, "NUMBER\tWHEN\tRULE\tACTION\tTOPIC\tREASON")
			for _, d := range list {
				fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\n", d.Seq, d.Time.Local().Format("01-02 15:04:05"), d.Rule, d.Action,
					printable(d.Topic), short(printable(d.Reason), 100))
			}
			if err := w.Flush(); err != nil {
				return err
			}
			if len(list) == max {
				fmt.Fprintf(a.stderr, "there may be more: weir dead list --after %d\n", list[len(list)-1].Seq)
			}
			return nil
		},
	}
	c.Flags().StringVar(&rule, "rule", "", "only of this rule")
	c.Flags().Uint64Var(&after, "after", 0, "begin behind this number")
	c.Flags().IntVar(&max, "max", 100, "how many, at most 1000")
	return c
}

func (a *app) deadShowCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "show NUMBER",
		Short:   "Show a dead letter: the message, the result, and why it was given up",
		Example: `  weir dead show 17`,
		Args:    arguments(1, 1, "NUMBER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			seq, err := strconv.ParseUint(args[0], 10, 62)
			if err != nil {
				return usagef("%q is not the number of a dead letter; `weir dead list` shows them", args[0])
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			d, err := cl.DeadLetter(cmd.Context(), seq)
			if err != nil {
				return a.unreachable(err)
			}
			if a.output == "json" {
				return a.printJSON(d)
			}
			w := table(a.stdout)
			fmt.Fprintf(w, "number\t%d\n", d.Seq)
			fmt.Fprintf(w, "message id\t%s\n", d.ID)
			fmt.Fprintf(w, "rule\t%s, action %s\n", d.Rule, d.Action)
			fmt.Fprintf(w, "topic\t%s\n", printable(d.Topic))
			if d.ClientID != "" {
				fmt.Fprintf(w, "client\t%s\n", printable(d.ClientID))
			}
			fmt.Fprintf(w, "given up\t%s (%s)\n", d.Time.Local().Format("2006-01-02 15:04:05"), ago(d.Time))
			fmt.Fprintf(w, "reason\t%s\n", printable(d.Reason))
			fmt.Fprintf(w, "message\t%s\n", contentText(d.Message))
			fmt.Fprintf(w, "result\t%s\n", contentText(d.Result))
			return w.Flush()
		},
	}
}

func (a *app) deadRedriveCmd() *cobra.Command {
	var r control.RedriveRequest
	var since, until string
	c := &cobra.Command{
		Use:   "redrive [NUMBER…]",
		Short: "Deliver dead letters again",
		Long: `Hands dead letters to their rule's action again. What is delivered leaves DEAD; what fails
again stays. The message id is the same as before, so a destination can tell a repeat.`,
		Example: `  weir dead redrive 17 18
  weir dead redrive --rule hot
  weir dead redrive --rule hot --error timeout --since 2h
  weir dead redrive --all`,
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, arg := range args {
				seq, err := strconv.ParseUint(arg, 10, 62)
				if err != nil {
					return usagef("%q is not the number of a dead letter; `weir dead list` shows them", arg)
				}
				r.Seqs = append(r.Seqs, seq)
			}
			var err error
			if r.Since, r.Until, err = span(since, until); err != nil {
				return err
			}
			if err := r.Check(); err != nil {
				return usagef("say which: numbers, --all, or --rule, --error, --since and --until together")
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			res, err := cl.Redrive(cmd.Context(), r)
			if err != nil {
				return a.unreachable(err)
			}
			if a.output == "json" {
				if err := a.printJSON(res); err != nil {
					return err
				}
			} else {
				fmt.Fprintf(a.stdout, "%d delivered, %d failed again\n", res.Delivered, res.Failed)
				for _, e := range res.Errors {
					fmt.Fprintf(a.stderr, "  %s\n", printable(e))
				}
			}
			if res.Failed > 0 {
				return &exitError{code: exitFailure}
			}
			return nil
		},
	}
	c.Flags().StringVar(&r.Rule, "rule", "", "those of this rule")
	c.Flags().StringVar(&r.Error, "error", "", "those whose reason contains this text")
	c.Flags().StringVar(&since, "since", "", "those given up then or later: "+spanHelp)
	c.Flags().StringVar(&until, "until", "", "those given up then or earlier")
	c.Flags().BoolVar(&r.All, "all", false, "every dead letter")
	return c
}
