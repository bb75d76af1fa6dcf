package main

import (
	"context"
	"fmt"
	"os"
	"regexp"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/internal/config"
	"github.com/weir-iot/weir/rules/ruletest"
)

type ruleTestFlags struct {
	only, junit     string
	update, verbose bool
}

func (a *app) ruleTestCmd() *cobra.Command {
	var f ruleTestFlags
	c := &cobra.Command{
		Use:   "test [PATH…]",
		Short: "Run the rule tests of files, without a server",
		Long: `Runs the cases of *.rule_test.yaml files, which stand beside rule files. A path is such a
file, a folder, or a folder and all below it (rules/...); without one it is ./...

A case gives a message and says what the rule should make of it:

  tests:
    - name: a hot reading goes to S3
      event:
        topic: factory/3/device/d7/telemetry
        payload: {deviceId: d7, temperature: 50, status: ok}
      expect:
        payload: {deviceId: d7, temperature: 50, fahrenheit: 122}
        actions:
          - s3: {bucketName: hot-readings, key: site-3/d7.json}

The guide docs/rules.md shows the rest: tables of inputs, fixtures for look-ups, golden
files. Time, ids and random numbers are the same in every run.

Exit codes: 0 all passed; 1 a case failed, or a file is wrong; 2 wrong usage.`,
		Example: `  weir rule test
  weir rule test rules/... --junit report.xml
  weir rule test rules/hot.rule_test.yaml -v --run 'hot|cold'
  weir rule test rules/... --update`,
		RunE: func(cmd *cobra.Command, args []string) error { return a.testRules(cmd.Context(), args, &f) },
	}
	fl := c.Flags()
	fl.BoolVar(&f.update, "update", false, "write golden files instead of comparing with them")
	fl.StringVar(&f.junit, "junit", "", "also write JUnit XML to this file")
	fl.StringVar(&f.only, "run", "", "run only the cases whose name matches this regular expression; no coverage then")
	fl.BoolVarP(&f.verbose, "verbose", "v", false, "list every case")
	return c
}

func (a *app) testRules(ctx context.Context, paths []string, f *ruleTestFlags) error {
	if len(paths) == 0 {
		paths = []string{"./..."}
	}
	o := ruletest.RunOptions{Paths: paths, Update: f.update,
		Options: ruletest.Options{AccountID: config.Default(false).AccountID, Lookups: ruletest.Lookups(), Actions: previewActions}}
	if f.only != "" {
		var err error
		if o.Only, err = regexp.Compile(f.only); err != nil {
			return usagef("--run: %v", err)
		}
	}
	r, err := ruletest.Run(ctx, o)
	if err != nil {
		return err
	}
	if f.junit != "" {
		if err := writeJUnit(f.junit, r); err != nil {
			return err
		}
	}
	if a.output == "json" {
		if err := a.printJSON(r); err != nil {
			return err
		}
	} else {
		r.Text(a.stdout, ruletest.TextOptions{Verbose: f.verbose, Printable: printable})
	}
	if r.Failed > 0 {
		return &exitError{exitFailure, ""}
	}
	return nil
}

func writeJUnit(name string, r *ruletest.Report) error {
	w, err := os.Create(name)
	if err != nil {
		return err
	}
	if err := r.JUnit(w); err != nil {
		w.Close()
		return fmt.Errorf("%s: %w", name, err)
	}
	return w.Close()
}
