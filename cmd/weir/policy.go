package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/control"
)

// devicePolicy is what `weir policy create` writes without a file: a device
// connects under its thing's name and uses the topics below it.
const devicePolicy = `{
  "Version": "2012-10-17",
  "Statement": [
    {"Effect": "Allow", "Action": "iot:Connect", "Resource": "arn:aws:iot:*:*:client/${iot:Connection.Thing.ThingName}"},
    {"Effect": "Allow", "Action": ["iot:Publish", "iot:Receive"], "Resource": [
      "arn:aws:iot:*:*:topic/${iot:Connection.Thing.ThingName}/*",
      "arn:aws:iot:*:*:topic/$aws/things/${iot:Connection.Thing.ThingName}/*"]},
    {"Effect": "Allow", "Action": "iot:Subscribe", "Resource": [
      "arn:aws:iot:*:*:topicfilter/${iot:Connection.Thing.ThingName}/*",
      "arn:aws:iot:*:*:topicfilter/$aws/things/${iot:Connection.Thing.ThingName}/*"]}
  ]
}
`

func (a *app) policyCmd() *cobra.Command {
	document := func(args []string) (string, error) {
		if len(args) == 1 {
			return devicePolicy, nil
		}
		return a.readText(args[1])
	}
	create := &cobra.Command{
		Use: "create NAME [FILE]", Short: "Create a policy from a document; without one, a policy for devices", Args: arguments(1, 2, "NAME [FILE]"),
		Long: `Creates a policy from a file, or from standard input (-). Without a file its document is one
that fits most devices: a device may connect under the name of a thing its certificate is
attached to, and publish and subscribe to topics that begin with that name, and to its own
shadows.`,
		Example: "  weir policy create device\n  weir policy create pumps pumps.json",
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := document(args)
			if err != nil {
				return err
			}
			var out control.Policy
			if err := a.call(cmd.Context(), "policy.create", control.Policy{Name: args[0], Document: text}, &out); err != nil {
				return err
			}
			return a.did(out, "policy %s: created", out.Name)
		},
	}
	update := verbCmd("update NAME FILE", "Add a version to a policy and make it the default", "weir policy update pumps pumps.json",
		func(ctx context.Context, args []string) error {
			text, err := document(args)
			if err != nil {
				return err
			}
			var out control.Policy
			if err := a.call(ctx, "policy.update", control.Policy{Name: args[0], Document: text}, &out); err != nil {
				return err
			}
			return a.did(out, "policy %s: version %d", out.Name, out.Default)
		})
	var q control.ListRequest
	var version string
	show := verbCmd("show NAME", "Show a policy's document, versions and targets", "weir policy show pumps\nweir policy show pumps --version 1",
		func(ctx context.Context, args []string) error {
			var p control.Policy
			if err := a.call(ctx, "policy.show", control.Named{Name: args[0], Version: version}, &p); err != nil {
				return err
			}
			if a.output == "json" {
				return a.printJSON(p)
			}
			if err := a.fields([2]string{"policy", p.Name}, [2]string{"arn", p.ARN}, [2]string{"default", strconv.Itoa(p.Default)},
				[2]string{"versions", strings.Trim(fmt.Sprint(p.Versions), "[]")}, [2]string{"created", when(p.CreatedAt)}, [2]string{"attached to", strings.Join(p.Targets, " ")}); err != nil {
				return err
			}
			fmt.Fprintln(a.stdout)
			for line := range strings.Lines(p.Document) {
				fmt.Fprintln(a.stdout, printable(strings.TrimRight(line, "\r\n")))
			}
			return nil
		})
	show.Flags().StringVar(&version, "version", "", "the version to show (default: the default)")
	var gone string
	remove := verbCmd("delete NAME", "Delete a policy that is attached to nothing, or one version", "weir policy delete pumps\nweir policy delete pumps --version 1",
		a.act("policy.delete", func(args []string) any { return control.Named{Name: args[0], Version: gone} }, "policy %s: deleted"))
	remove.Flags().StringVar(&gone, "version", "", "delete this version alone")
	attach := func(verb, short, done string) *cobra.Command {
		var l control.Link
		c := verbCmd(verb+" NAME", short, "weir policy "+verb+" pumps --cert 3f9c…\nweir policy "+verb+" pumps --group pumps", func(ctx context.Context, args []string) error {
			if (l.Certificate == "") == (l.Group == "") {
				return usagef("name a certificate with --cert or a thing group with --group")
			}
			l.Policy = args[0]
			return a.act("policy."+verb, func([]string) any { return l }, done)(ctx, args)
		})
		c.Flags().StringVar(&l.Certificate, "cert", "", "certificate id")
		c.Flags().StringVar(&l.Group, "group", "", "thing group")
		return c
	}
	return a.nounCmd("policy", "Create, list, show, change, attach and delete policies", "A policy says what a device may: connect, publish, subscribe, receive. It holds for the\ncertificates, and the things of the groups, it is attached to.",
		create,
		pages(verbCmd("list", "List policies", "weir policy list", listOf(a, "policy.list", "no policies; `weir policy create` makes one", "NAME\tDEFAULT\tVERSIONS", &q, func(p control.Policy) []string {
			return []string{p.Name, strconv.Itoa(p.Default), strconv.Itoa(len(p.Versions))}
		})), &q),
		show, update,
		verbCmd("default NAME VERSION", "Make a version the one that holds", "weir policy default pumps 1",
			a.act("policy.default", func(args []string) any { return control.Named{Name: args[0], Version: args[1]} }, "policy %s: version %s holds")),
		attach("attach", "Attach a policy to a certificate or thing group", "policy %s: attached"),
		attach("detach", "Detach a policy", "policy %s: detached"),
		remove)
}

func (a *app) accessKeyCmd() *cobra.Command {
	var file, description string
	create := verbCmd("create", "Create an access key; its secret is shown this once", "weir access-key create --policy publisher.json --description 'the importer'",
		func(ctx context.Context, _ []string) error {
			if file == "" {
				return usagef("say what the key may: --policy FILE")
			}
			text, err := a.readText(file)
			if err != nil {
				return err
			}
			var out control.AccessKey
			if err := a.call(ctx, "access-key.create", control.AccessKey{Policy: text, Description: description}, &out); err != nil {
				return err
			}
			return a.did(out, "AWS_ACCESS_KEY_ID=%s\nAWS_SECRET_ACCESS_KEY=%s", out.ID, out.Secret)
		})
	create.Flags().StringVar(&file, "policy", "", "file with the policy document of the key, or -")
	create.Flags().StringVar(&description, "description", "", "what it is for")
	var q control.ListRequest
	status := func(verb, status string) *cobra.Command {
		return verbCmd(verb+" ID", "Set an access key "+status, "weir access-key "+verb+" AKIA…",
			a.act("access-key.status", func(args []string) any { return control.Named{Name: args[0], Status: status} }, "access key %s: "+status))
	}
	return a.nounCmd("access-key", "Create, list, disable and delete access keys for signed requests", "An access key signs requests of the AWS SDKs and command line (SigV4). Its policy says what it\nmay. Weir keeps the secret encrypted and shows it once.",
		create,
		pages(verbCmd("list", "List access keys", "weir access-key list", listOf(a, "access-key.list", "no access keys; `weir access-key create` makes one", "ID\tSTATUS\tCREATED\tDESCRIPTION", &q, func(k control.AccessKey) []string {
			return []string{k.ID, k.Status, when(k.CreatedAt), k.Description}
		})), &q),
		verbCmd("show ID", "Show an access key and its policy", "weir access-key show AKIA…", func(ctx context.Context, args []string) error {
			var k control.AccessKey
			if err := a.call(ctx, "access-key.show", control.Named{Name: args[0]}, &k); err != nil {
				return err
			}
			if a.output == "json" {
				return a.printJSON(k)
			}
			return a.fields([2]string{"access key", k.ID}, [2]string{"status", k.Status}, [2]string{"created", when(k.CreatedAt)},
				[2]string{"description", k.Description}, [2]string{"policy", k.Policy})
		}),
		status("activate", "ACTIVE"), status("deactivate", "INACTIVE"),
		verbCmd("delete ID", "Delete an access key", "weir access-key delete AKIA…", a.act("access-key.delete", named, "access key %s: deleted")))
}
