package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/control"
)

// nounCmd is a command whose sub-commands call the registry.
func (a *app) nounCmd(use, short, long string, verbs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Long: long, Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	a.ownerFlags(c)
	c.AddCommand(verbs...)
	return c
}

// verbCmd is a sub-command that takes exactly the arguments its use names.
func verbCmd(use, short, example string, run func(ctx context.Context, args []string) error) *cobra.Command {
	name, names, _ := strings.Cut(use, " ")
	n := 0
	if names != "" {
		n = len(strings.Fields(names))
	}
	c := &cobra.Command{
		Use: use, Short: short, Example: "  " + strings.ReplaceAll(example, "\n", "\n  "), Args: arguments(n, n, names),
		RunE: func(cmd *cobra.Command, args []string) error { return run(cmd.Context(), args) },
	}
	switch name {
	case "list":
		c.Aliases = []string{"ls"}
	case "delete":
		c.Aliases = []string{"rm"}
	}
	return c
}

// call does one operation of the registry; out may be nil.
func (a *app) call(ctx context.Context, operation string, in, out any) error {
	cl, err := a.client()
	if err != nil {
		return err
	}
	if err := cl.Registry(ctx, operation, in, out); err != nil {
		return a.unreachable(err)
	}
	return nil
}

// did prints what was done, or as JSON v.
func (a *app) did(v any, format string, args ...any) error {
	if a.output == "json" {
		return a.printJSON(v)
	}
	fmt.Fprintf(a.stdout, format+"\n", args...)
	return nil
}

// act is the verb that does operation with a request and prints one line.
func (a *app) act(operation string, request func(args []string) any, done string) func(context.Context, []string) error {
	return func(ctx context.Context, args []string) error {
		var out any
		if err := a.call(ctx, operation, request(args), &out); err != nil {
			return err
		}
		texts := make([]any, len(args))
		for i := range args {
			texts[i] = printable(args[i])
		}
		if a.output == "json" {
			return a.printJSON(out)
		}
		fmt.Fprintf(a.stdout, done+"\n", texts...)
		return nil
	}
}

func named(args []string) any { return control.Named{Name: args[0]} }

// listOf is the verb that lists a noun as a table.
func listOf[T any](a *app, operation, none, head string, request *control.ListRequest, row func(T) []string) func(context.Context, []string) error {
	return func(ctx context.Context, _ []string) error {
		var out control.List[T]
		in := control.ListRequest{}
		if request != nil {
			in = *request
		}
		if err := a.call(ctx, operation, in, &out); err != nil {
			return err
		}
		if a.output == "json" {
			return a.printJSON(out)
		}
		if len(out.Items) == 0 {
			fmt.Fprintln(a.stdout, none)
			return nil
		}
		w := table(a.stdout)
		fmt.Fprintln(w, head)
		for _, t := range out.Items {
			cells := row(t)
			for i := range cells {
				cells[i] = printable(cells[i])
			}
			fmt.Fprintln(w, strings.Join(cells, "\t"))
		}
		if err := w.Flush(); err != nil {
			return err
		}
		if out.Next != "" {
			fmt.Fprintf(a.stdout, "there are more: --after %s\n", out.Next)
		}
		return nil
	}
}

// pages adds the flags of a list.
func pages(c *cobra.Command, in *control.ListRequest) *cobra.Command {
	c.Flags().IntVar(&in.Max, "max", 1000, "at most so many")
	c.Flags().StringVar(&in.Token, "after", "", "go on behind a list that said there are more")
	return c
}

// fields prints names and values, those that are not empty.
func (a *app) fields(rows ...[2]string) error {
	w := table(a.stdout)
	for _, r := range rows {
		if r[1] != "" {
			fmt.Fprintf(w, "%s\t%s\n", r[0], printable(r[1]))
		}
	}
	return w.Flush()
}

// attributes reads NAME=VALUE flags.
func attributes(flags []string) (map[string]string, error) {
	out := map[string]string{}
	for _, f := range flags {
		k, v, ok := strings.Cut(f, "=")
		if !ok || k == "" {
			return nil, usagef("--attribute %s: expected NAME=VALUE", f)
		}
		out[k] = v
	}
	return out, nil
}

func attributeText(m map[string]string) string {
	var all []string
	for k, v := range m {
		all = append(all, k+"="+v)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// readText reads a file, or standard input for -.
func (a *app) readText(name string) (string, error) {
	if name == "-" {
		b, err := io.ReadAll(io.LimitReader(a.stdin, 1<<20))
		return string(b), err
	}
	info, err := os.Stat(name)
	if err != nil {
		return "", err
	}
	if info.Size() > 1<<20 {
		return "", fmt.Errorf("%s has %d bytes, at most 1 MiB is read", name, info.Size())
	}
	b, err := os.ReadFile(name)
	return string(b), err
}
