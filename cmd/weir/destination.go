package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) destinationCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "destination",
		Short: "List, confirm and delete the web servers rules may send to",
		Long: `A web server gets results of the http action only after its owner has confirmed that it
wants them. When a rule names a new one, Weir posts it a token; the owner answers by
fetching the enableUrl that comes with it, or gives the token to whoever runs Weir. With
weir dev, servers on this machine need no confirmation.`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	a.ownerFlags(c)
	c.AddCommand(&cobra.Command{
		Use: "list", Aliases: []string{"ls"},
		Short:   "List the destinations and whether they are confirmed",
		Example: "  weir destination list",
		Args:    arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			list, err := cl.Destinations(cmd.Context())
			if err != nil {
				return a.unreachable(err)
			}
			if a.output == "json" {
				return a.printJSON(list)
			}
			if len(list) == 0 {
				fmt.Fprintln(a.stdout, "no destinations; a rule with an http action makes one")
				return nil
			}
			w := table(a.stdout)
			fmt.Fprintln(w, "STATUS\tSINCE\tURL\tREASON")
			for _, d := range list {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", d.Status, d.CreatedAt.Local().Format("2006-01-02 15:04:05"), printable(d.URL), printable(d.Reason))
			}
			return w.Flush()
		},
	}, &cobra.Command{
		Use:     "confirm TOKEN",
		Short:   "Enable a destination with the token it was sent",
		Example: "  weir destination confirm 3q2-7w…",
		Args:    arguments(1, 1, "TOKEN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			d, err := cl.ConfirmDestination(cmd.Context(), args[0])
			if err != nil {
				return a.unreachable(err)
			}
			if a.output == "json" {
				return a.printJSON(d)
			}
			fmt.Fprintf(a.stdout, "destination %s: %s\n", printable(d.URL), d.Status)
			return nil
		},
	}, &cobra.Command{
		Use: "delete URL|ARN", Aliases: []string{"rm"},
		Short:   "Delete a destination; results for it wait until it is confirmed anew",
		Example: "  weir destination delete https://hooks.example.com/weir",
		Args:    arguments(1, 1, "URL|ARN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			if err := cl.DeleteDestination(cmd.Context(), args[0]); err != nil {
				return a.unreachable(err)
			}
			if a.output == "json" {
				return a.printJSON(map[string]string{"destination": args[0], "result": "deleted"})
			}
			fmt.Fprintf(a.stdout, "destination %s: deleted\n", printable(args[0]))
			return nil
		},
	})
	return c
}
