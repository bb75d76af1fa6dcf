package main

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/ingest/auth"
)

func (a *app) authzCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "authz",
		Short: "Find out what devices are allowed, and why",
		Args:  arguments(0, 0, ""),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(a.authzExplainCmd())
	return c
}

func (a *app) authzExplainCmd() *cobra.Command {
	var q control.AuthzQuestion
	c := &cobra.Command{
		Use:   "explain",
		Short: "Say which policy allows or denies an action, and what would allow it",
		Long: `Asks the running Weir as a device would, changes nothing, and says which policy, statement
and variable decide. With --client alone it asks for the client that is connected with that
client id; with --cert for a connection that certificate would have.

It exits with 0 where the action is allowed and with 4 where it is denied.`,
		Example: `  weir authz explain --client sensor-7 --action iot:Publish --resource topic/sensors/7/temp
  weir authz explain --cert sensor-7/certificate.pem --action iot:Connect --resource client/sensor-7
  weir authz explain --client sensor-7 --action iot:Subscribe --resource 'topicfilter/cmd/#' -o json`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if q.ClientID == "" && q.Certificate == "" {
				return usagef("weir authz explain needs --client or --cert")
			}
			for flag, v := range map[string]string{"--action": q.Action, "--resource": q.Resource} {
				if v == "" {
					return usagef("weir authz explain needs %s", flag)
				}
			}
			if id, err := certificateOf(q.Certificate); err != nil {
				return err
			} else if id != "" {
				q.Certificate = id
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			e, err := cl.ExplainAuthz(cmd.Context(), q)
			if err != nil {
				return a.unreachable(err)
			}
			if a.output == "json" {
				err = a.printJSON(e)
			} else {
				a.printAuthz(e)
			}
			if err == nil && !e.Allowed {
				return &exitError{code: exitRefused}
			}
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&q.ClientID, "client", "", "client id")
	f.StringVar(&q.Certificate, "cert", "", "certificate: its id, its ARN or its file")
	f.StringVar(&q.Action, "action", "", "action, such as iot:Publish")
	f.StringVar(&q.Resource, "resource", "", "topic/…, topicfilter/…, client/…, thing/…, or an ARN")
	a.ownerFlags(c)
	return c
}

// certificateOf returns the id of the certificate in a file, "" where name is
// none.
func certificateOf(name string) (string, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return "", nil // an id, or an ARN
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return "", usagef("%s is not a certificate in PEM", name)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", usagef("%s: %v", name, err)
	}
	return auth.CertificateID(c), nil
}

func (a *app) printAuthz(e *control.AuthzAnswer) {
	word := "DENIED"
	if e.Allowed {
		word = "ALLOWED"
	}
	fmt.Fprintf(a.stdout, "%s: %s on %s\n%s\n", word, printable(e.Action), printable(e.Resource), printable(e.Reason))
	w := table(a.stdout)
	fmt.Fprintln(w)
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "  %s\t%s\n", name, printable(value))
		}
	}
	row("client id", e.ClientID)
	row("principal", e.Principal)
	row("thing", e.Thing)
	row("policies", strings.Join(e.Policies, ", "))
	w.Flush()
	if len(e.Verdicts) > 0 {
		fmt.Fprintf(a.stdout, "\nStatements about %s (%d about other actions):\n", printable(e.Action), e.Others)
	}
	for _, v := range e.Verdicts {
		mark := " "
		if d := e.Decided; d != nil && d.Policy == v.Policy && d.Statement == v.Statement {
			mark = "*"
		}
		name := fmt.Sprintf("%s, statement %d", v.Policy, v.Statement)
		if v.Sid != "" {
			name += " (" + v.Sid + ")"
		}
		says := "does not apply"
		if v.Applies {
			says = "applies"
		}
		fmt.Fprintf(a.stdout, "%s %s %s %s: %s\n", mark, strings.ToUpper(v.Effect), printable(name), says, printable(v.Why))
		for _, x := range v.Variables {
			value := "has no value"
			if !x.Missing {
				value = "= " + x.Value
			}
			fmt.Fprintf(a.stdout, "      ${%s} %s\n", printable(x.Name), printable(value))
		}
	}
	if len(e.Smallest) > 0 {
		fmt.Fprintf(a.stdout, "\nThe smallest statement that would allow it:\n  %s\n", printable(string(e.Smallest)))
	}
}
