package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/control"
)

// clientPage is how many clients are asked for at a time.
const clientPage = 500

func (a *app) clientCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "client",
		Short: "List, show and disconnect MQTT clients",
		Long: `MQTT clients are devices that are connected, and devices that are away whose sessions are
kept: their subscriptions hold, and what comes for them waits on the log.`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	a.ownerFlags(c)
	c.AddCommand(a.clientListCmd(), a.clientShowCmd(), a.clientDisconnectCmd())
	return c
}

func (a *app) clientListCmd() *cobra.Command {
	var away, connected bool
	c := &cobra.Command{
		Use: "list", Aliases: []string{"ls"},
		Short: "List the clients that are connected or have a session",
		Long: `List the clients that are connected, and those that are away with a session that is kept.
LAG is how many events of the log have not been looked at for the client yet: not all of
them are for it.`,
		Example: "  weir client list\n  weir client list --away",
		Args:    arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			list := []control.DeviceClient{}
			for after := ""; ; {
				page, err := cl.Clients(cmd.Context(), after, clientPage)
				if err != nil {
					return a.unreachable(err)
				}
				for _, d := range page {
					if !(away && d.Connected || connected && !d.Connected) {
						list = append(list, d)
					}
				}
				if len(page) < clientPage {
					break
				}
				after = page[len(page)-1].ClientID
			}
			if a.output == "json" {
				return a.printJSON(list)
			}
			if len(list) == 0 {
				fmt.Fprintln(a.stdout, "no clients")
				return nil
			}
			w := table(a.stdout)
			fmt.Fprintln(w, "CLIENT\tSTATE\tSINCE\tSUBSCRIPTIONS\tIN FLIGHT\tLAG\tFROM")
			for _, d := range list {
				fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%s\t%s\n", printable(d.ClientID), clientState(&d), since(d.Since), len(d.Subscriptions), d.InFlight, count(d.LagSum()), d.Remote)
			}
			return w.Flush()
		},
	}
	c.Flags().BoolVar(&away, "away", false, "only those that are away")
	c.Flags().BoolVar(&connected, "connected", false, "only those that are connected")
	c.MarkFlagsMutuallyExclusive("away", "connected")
	return c
}

func clientState(d *control.DeviceClient) string {
	switch {
	case d.Connected:
		return "connected"
	case d.CleanSession:
		return "gone"
	}
	return "away"
}

func since(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return ago(t)
}

func (a *app) clientShowCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "show CLIENT",
		Short:   "Show a client with its subscriptions",
		Example: "  weir client show thermostat-7",
		Args:    arguments(1, 1, "CLIENT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			d, err := cl.Client(cmd.Context(), args[0])
			if err != nil {
				return a.unreachable(err)
			}
			if a.output == "json" {
				return a.printJSON(d)
			}
			w := table(a.stdout)
			row := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
			row("client", "%s", printable(d.ClientID))
			row("state", "%s, %s", clientState(d), since(d.Since))
			if d.Reason != "" {
				row("left because", "%s", d.Reason)
			}
			if d.Connected {
				row("from", "%s, %s, MQTT %s", d.Remote, d.Listener, d.Version)
				row("keep-alive", "%d s", d.KeepAlive)
			}
			if d.Principal != "" {
				row("principal", "%s", printable(d.Principal))
			}
			switch {
			case d.CleanSession:
				row("session", "ends with the connection")
			case d.Connected:
				row("session", "kept for %v without the client", time.Duration(d.SessionExpiry)*time.Second)
			default:
				row("session", "kept until %s", d.Expires.Local().Format("2006-01-02 15:04:05"))
			}
			if d.Connected || !d.CleanSession {
				row("in flight", "%d", d.InFlight)
				row("queued", "%d in memory", d.Queued)
				var lag []string
				for p, n := range d.Lag {
					lag = append(lag, fmt.Sprintf("%s in partition %d", count(n), p))
				}
				row("lag", "%s", strings.Join(lag, ", "))
			}
			for i, s := range d.Subscriptions {
				name := ""
				if i == 0 {
					name = "subscriptions"
				}
				row(name, "%s (QoS %d)", printable(s.Filter), s.QoS)
			}
			return w.Flush()
		},
	}
}

func (a *app) clientDisconnectCmd() *cobra.Command {
	var clean, noWill bool
	c := &cobra.Command{
		Use:   "disconnect CLIENT",
		Short: "End a client's connection",
		Long: `End a client's connection. It may connect again at once; to keep it out, take its
permission away first.`,
		Example: "  weir client disconnect thermostat-7\n  weir client disconnect thermostat-7 --clean-session",
		Args:    arguments(1, 1, "CLIENT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			if err := cl.Disconnect(cmd.Context(), args[0], clean, noWill); err != nil {
				return a.unreachable(err)
			}
			if a.output == "json" {
				return a.printJSON(map[string]string{"clientId": args[0], "result": "disconnected"})
			}
			fmt.Fprintf(a.stdout, "client %s: disconnected\n", printable(args[0]))
			return nil
		},
	}
	c.Flags().BoolVar(&clean, "clean-session", false, "end its session too: subscriptions and what waits for it; also of a client that is away")
	c.Flags().BoolVar(&noWill, "prevent-will", false, "do not publish its will")
	return c
}
