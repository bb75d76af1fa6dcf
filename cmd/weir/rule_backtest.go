package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/rules/replay"
)

// ruleText reads the rule a command is about: from a file, or one that is stored.
func (a *app) ruleText(file string, args []string) (control.RuleText, error) {
	var q control.RuleText
	if len(args) > 0 {
		q.Name = args[0]
	}
	if file == "" {
		if q.Name == "" {
			return q, usagef("name a stored rule, or a rule file with -f")
		}
		return q, nil
	}
	files, err := a.readRules(file)
	if err != nil {
		return q, err
	}
	if len(files) != 1 {
		return q, usagef("-f: name one file, not a folder")
	}
	q.File, q.Content = files[0].Name, string(files[0].Content)
	return q, nil
}

// span reads --since and --until.
func span(since, until string) (from, to time.Time, err error) {
	now := time.Now()
	if since != "" {
		if from, err = parseSince(since, now); err != nil {
			return from, to, usagef("--since: %v", err)
		}
	}
	if until != "" {
		if to, err = parseSince(until, now); err != nil {
			return from, to, usagef("--until: %v", err)
		}
	}
	if !from.IsZero() && !to.IsZero() && to.Before(from) {
		return from, to, usagef("--until lies before --since")
	}
	return from, to, nil
}

const spanHelp = "a duration back from now (1h, 7d) or a time (2006-01-02T15:04:05Z)"

func (a *app) ruleBacktestCmd() *cobra.Command {
	var file, since, until, against, out string
	var q control.BacktestRequest
	c := &cobra.Command{
		Use:   "backtest -f FILE | NAME",
		Short: "Run a rule over the events that are stored, with its actions suppressed",
		Long: `Evaluates a new or changed rule, or one that is stored, over the log, and tells what it would
have done: how many results and errors, samples of them, and, with --against current, which
results appear, vanish or change against the version that runs. Nothing is delivered.`,
		Example: `  weir rule backtest -f hot.yaml --since 24h
  weir rule backtest -f hot.yaml --against current
  weir rule backtest hot --since 1h --out results.ndjson`,
		Args: arguments(0, 1, "[NAME]"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if q.RuleText, err = a.ruleText(file, args); err != nil {
				return err
			}
			if q.Since, q.Until, err = span(since, until); err != nil {
				return err
			}
			if against != "" && against != "current" {
				return usagef("--against: only current can be compared with")
			}
			q.Against = against != ""
			if q.Samples < 0 || q.Samples > 1000 {
				return usagef("--samples: expected 0 to 1000")
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			var results *bufio.Writer
			shown := q.Samples
			if out != "" {
				f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
				if err != nil {
					return err
				}
				defer func() { err = errors.Join(err, f.Close()) }()
				results = bufio.NewWriterSize(f, 64<<10)
				defer func() { err = errors.Join(err, results.Flush()) }()
				q.Samples = -1
			}
			p := newProgress(a.stderr, "backtest")
			told := map[string]int{}
			var samples []replay.Sample
			var report *control.BacktestReport
			err = cl.Backtest(cmd.Context(), q, func(l *control.BacktestLine, raw []byte) error {
				switch {
				case l.Progress != nil:
					p.at(l.Progress.Read, l.Progress.Total, count(l.Progress.Results)+" results")
				case l.Outcome != nil:
					if told[l.Outcome.Verdict]++; told[l.Outcome.Verdict] <= shown {
						samples = append(samples, *l.Outcome)
					}
					if results != nil {
						results.Write(raw)
						return results.WriteByte('\n')
					}
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
				return a.printJSON(struct {
					*control.BacktestReport
					Samples []replay.Sample `json:"samples"`
				}{report, samples})
			}
			printBacktest(a.stdout, report, samples)
			return nil
		},
	}
	c.Flags().StringVarP(&file, "filename", "f", "", "rule file, or - for standard input")
	c.Flags().StringVar(&since, "since", "", "begin with events that arrived then: "+spanHelp+"; default: the whole log")
	c.Flags().StringVar(&until, "until", "", "end with events that arrived then; default: now")
	c.Flags().StringVar(&against, "against", "", "`current`: compare with the version that runs")
	c.Flags().Uint64Var(&q.Limit, "limit", 0, "end behind this many events that reach the rule; 0: all")
	c.Flags().IntVar(&q.Samples, "samples", 3, "how many outcomes of each kind to show")
	c.Flags().StringVar(&out, "out", "", "write every outcome to this file, as NDJSON")
	c.Flags().BoolVar(&q.Lookups, "lookups", false, "let the statement call what it calls, for every event, as it is today")
	return c
}

func printBacktest(w io.Writer, r *control.BacktestReport, samples []replay.Sample) {
	fmt.Fprintf(w, "rule %s: %s events read in %s", r.Rule, count(r.Read), r.Took.Round(time.Millisecond))
	if s := r.Took.Seconds(); s > 0.05 {
		fmt.Fprintf(w, " (%s/s)", count(uint64(float64(r.Read)/s)))
	}
	fmt.Fprintln(w)
	t := table(w)
	fmt.Fprintf(t, "  reached the rule\t%s\n  results\t%s\n  errors\t%s\n", count(r.Events), count(r.Results), count(r.Errors))
	for _, kind := range slices.Sorted(maps.Keys(r.Kinds)) {
		fmt.Fprintf(t, "    %s\t%s\n", short(printable(kind), 80), count(r.Kinds[kind]))
	}
	if r.Trimmed > 0 {
		fmt.Fprintf(t, "  trimmed before they were read\t%s\n", count(r.Trimmed))
	}
	t.Flush()
	if r.Version > 0 {
		fmt.Fprintf(w, "against version %d, which runs\n", r.Version)
		printComparison(w, r.Tally)
	}
	printSamples(w, samples, r.Version > 0)
}

func printComparison(w io.Writer, t replay.Tally) {
	tw := table(w)
	fmt.Fprintf(tw, "  same\t%s\n  appear\t%s\n  vanish\t%s\n  change\t%s\n", count(t.Same), count(t.Appear), count(t.Vanish), count(t.Change))
	tw.Flush()
}

func printSamples(w io.Writer, samples []replay.Sample, compared bool) {
	for _, s := range samples {
		verdict := "result"
		if compared {
			verdict = s.Verdict
		}
		fmt.Fprintf(w, "\n%s  %d:%d  %s  %s\n", verdict, s.Partition, s.Seq, s.Received.Local().Format("2006-01-02 15:04:05.000"), printable(s.Topic))
		side := func(label string, result *string, err string) {
			switch {
			case err != "":
				fmt.Fprintf(w, "  %s error: %s\n", label, printable(err))
			case result != nil:
				fmt.Fprintf(w, "  %s %s\n", label, short(printable(*result), 400))
			}
		}
		if compared {
			side("-", s.Current, s.CurrentError)
			side("+", s.Result, s.Error)
		} else {
			side("→", s.Result, s.Error)
		}
	}
}
