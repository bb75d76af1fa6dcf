package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/control"
)

func (a *app) statusCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "status",
		Short: "Show the state of the running Weir",
		Example: `  weir status
  weir status -o json | jq .partitions`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			s, err := cl.Status(cmd.Context())
			if err != nil {
				return a.unreachable(err)
			}
			if a.output == "json" {
				return a.printJSON(s)
			}
			a.printStatus(s)
			if !s.Ready {
				return &exitError{code: exitFailure}
			}
			return nil
		},
	}
	a.ownerFlags(c)
	return c
}

func (a *app) printStatus(s *control.Status) {
	state := "ready"
	if !s.Ready {
		state = "NOT READY: " + s.Reason
	}
	w := table(a.stdout)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	row("state", "%s", state)
	row("version", "%s, process %d, up %s", s.Build.Version, s.PID, time.Since(s.Started).Round(time.Second))
	row("data folder", "%s", s.DataDir)
	row("durability", "%s", s.Durability)
	row("limits", "%s", s.Limits)
	row("roles", "%s", strings.Join(s.Roles, ", "))
	for _, name := range slices.Sorted(maps.Keys(s.Listeners)) {
		row("listens", "%s, %s", s.Listeners[name], name)
	}
	row("connections", "%s", count(uint64(s.Connections)))
	row("events", "%s received since the start", count(s.Received))
	for _, p := range s.Partitions {
		kept := uint64(0)
		if p.Committed >= p.First && p.First > 0 {
			kept = p.Committed - p.First + 1
		}
		if kept == 0 {
			row("partition "+strconv.Itoa(p.Partition), "no events")
			continue
		}
		row("partition "+strconv.Itoa(p.Partition), "%s events kept, %s to %s", count(kept), count(p.First), count(p.Committed))
	}
	row("rules", "%d", s.Rules)
	row("dead letters", "%s", count(s.DeadLetters))
	w.Flush()
}
