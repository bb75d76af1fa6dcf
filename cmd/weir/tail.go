package main

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/internal/config"
)

func (a *app) tailCmd() *cobra.Command {
	var since string
	var o control.TailOptions
	var noFollow bool
	c := &cobra.Command{
		Use:   "tail [FILTER]",
		Short: "Read the log: what has come in, and what comes in now",
		Long: `Prints the events on the log whose topic matches a topic filter (default: every topic),
from now on, or from a time in the past. Every event is printed once, in order, with no gap
between past and present. With several partitions they are merged by arrival.`,
		Example: `  weir tail 'factory/+/device/+/telemetry'
  weir tail --since 1h 'alerts/#'
  weir tail --last 10 --no-follow
  weir tail -o json | jq -r .payload`,
		Args: arguments(0, 1, "[FILTER]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				o.Filter = args[0]
			}
			if since != "" {
				t, err := parseSince(since, time.Now())
				if err != nil {
					return usagef("--since: %v", err)
				}
				o.Since = t
			}
			if o.Last < 0 {
				return usagef("--last: must not be negative")
			}
			o.Follow = !noFollow
			if noFollow && o.Since.IsZero() && o.Last == 0 {
				return usagef("--no-follow reads what is there: say how much, with --since or --last")
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			w := bufio.NewWriter(a.stdout)
			err = cl.Tail(cmd.Context(), o, func(l *control.TailLine, raw []byte) error {
				if a.output == "json" {
					w.Write(raw)
					w.WriteByte('\n')
				} else {
					a.printTail(w, l)
				}
				return w.Flush() // a reader at the other end of a pipe wants it now
			})
			return a.unreachable(err)
		},
	}
	c.Flags().StringVar(&since, "since", "", "begin in the past: a duration (1h, 7d) or a time (2006-01-02T15:04:05Z)")
	c.Flags().IntVarP(&o.Last, "last", "n", 0, "begin with the newest `N` events")
	c.Flags().BoolVar(&noFollow, "no-follow", false, "end at what is there instead of waiting for more")
	a.ownerFlags(c)
	return c
}

func parseSince(s string, now time.Time) (time.Time, error) {
	if d, err := config.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("expected a duration such as 1h or 7d, or a time such as 2006-01-02T15:04:05Z, found %q", s)
}

func (a *app) printTail(w *bufio.Writer, l *control.TailLine) {
	if g := l.Gap; g != nil {
		fmt.Fprintf(a.stderr, "weir: events %d to %d of partition %d were trimmed before they were read\n", g.From, g.To, g.Partition)
		return
	}
	fmt.Fprintf(w, "%s  %s", l.Received.Local().Format("2006-01-02 15:04:05.000"), printable(l.Topic))
	if l.ClientID != "" {
		fmt.Fprintf(w, "  (%s)", printable(l.ClientID))
	}
	fmt.Fprintf(w, "  %s\n", contentText(l.Content))
}

// contentText returns a payload for a terminal.
func contentText(c control.Content) string {
	if c.PayloadBase64 == "" {
		return printable(c.Payload)
	}
	b, err := base64.StdEncoding.DecodeString(c.PayloadBase64)
	if err != nil {
		return c.PayloadBase64
	}
	return fmt.Sprintf("%d bytes: %x", len(b), b[:min(len(b), 64)])
}
