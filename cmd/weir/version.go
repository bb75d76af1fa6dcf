package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/internal/telemetry"
)

func (a *app) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this binary",
		Example: `  weir version
  weir version -o json`,
		Args: arguments(0, 0, ""),
		RunE: func(*cobra.Command, []string) error {
			b := telemetry.ReadBuild()
			if a.output == "json" {
				return a.printJSON(b)
			}
			text := "weir " + b.Version
			if b.Revision != "" {
				text += " (" + b.Revision[:min(12, len(b.Revision))]
				if b.Modified {
					text += ", modified"
				}
				text += ")"
			}
			fmt.Fprintf(a.stdout, "%s, %s, %s\n", text, b.Go, b.Platform)
			return nil
		},
	}
}
