package main

import (
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

func (a *app) provisionCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "provision",
		Short: "See how devices enrol themselves",
		Long: `Devices enrol with a claim certificate and a provisioning template, or at their first
connection with the template of their CA. Templates are made with the AWS CLI or an SDK.`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	a.ownerFlags(c)
	c.AddCommand(a.provisionLogCmd())
	return c
}

func (a *app) provisionLogCmd() *cobra.Command {
	var device, since string
	var rejected bool
	var max int
	c := &cobra.Command{
		Use:   "log",
		Short: "Show each attempt step by step, and why it was refused",
		Long: `Each attempt is an event of the log, on $aws/events/provisioning/accepted or …/rejected, and
is kept as long as the log is (events.max_age, a day). It has no keys, no tokens and no values
of parameters.`,
		Example: "  weir provision log\n  weir provision log --device lamp-7\n  weir provision log --rejected --since 1h",
		Args:    arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			q := url.Values{"max": {strconv.Itoa(max)}}
			if device != "" {
				q.Set("device", device)
			}
			if rejected {
				q.Set("outcome", "rejected")
			}
			if since != "" {
				t, err := parseSince(since, time.Now())
				if err != nil {
					return usagef("--since: %v", err)
				}
				q.Set("since", t.UTC().Format(time.RFC3339Nano))
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			list, err := cl.ProvisionLog(cmd.Context(), q)
			if err != nil {
				return a.unreachable(err)
			}
			if a.output == "json" {
				return a.printJSON(list)
			}
			if len(list) == 0 {
				fmt.Fprintln(a.stdout, "no attempts")
				return nil
			}
			for _, at := range list {
				fmt.Fprintf(a.stdout, "%s  %s  %s", time.UnixMilli(at.Timestamp).Format("2006-01-02 15:04:05"), at.Operation, at.Outcome)
				for _, p := range [][2]string{{"template", at.Template}, {"thing", at.Thing}, {"client", at.ClientID}, {"certificate", short(at.CertificateID, 12)}} {
					if p[1] != "" {
						fmt.Fprintf(a.stdout, "  %s %s", p[0], printable(p[1]))
					}
				}
				fmt.Fprintln(a.stdout)
				for _, s := range at.Steps {
					fmt.Fprintf(a.stdout, "  %-10s %s\n", s.What, printable(s.Detail))
				}
				if at.ErrorCode != "" {
					fmt.Fprintf(a.stdout, "  %-10s %d %s\n", "answered", at.StatusCode, at.ErrorCode)
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&device, "device", "", "only this thing, client id, or beginning of a certificate id")
	c.Flags().StringVar(&since, "since", "", "begin there: a duration (1h) or a time (2006-01-02T15:04:05Z); default a day ago")
	c.Flags().BoolVar(&rejected, "rejected", false, "only what was refused")
	c.Flags().IntVar(&max, "max", 100, "the newest so many, at most 1000")
	return c
}
