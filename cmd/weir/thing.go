package main

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/control"
)

func (a *app) thingCmd() *cobra.Command {
	var in control.Thing
	var flags []string
	create := verbCmd("create NAME", "Create a thing; the same again is no error", "weir thing create pump-7 --type pump --attribute site=north",
		func(ctx context.Context, args []string) (err error) {
			in.Name = args[0]
			if in.Attributes, err = attributes(flags); err != nil {
				return err
			}
			var out control.Thing
			if err := a.call(ctx, "thing.create", in, &out); err != nil {
				return err
			}
			return a.did(out, "thing %s: created", out.Name)
		})
	create.Flags().StringVar(&in.Type, "type", "", "thing type")
	create.Flags().StringArrayVar(&flags, "attribute", nil, "NAME=VALUE, may be repeated")

	var change control.Thing
	var changed []string
	update := verbCmd("update NAME", "Change attributes or type of a thing", "weir thing update pump-7 --attribute site=south --attribute old=",
		func(ctx context.Context, args []string) (err error) {
			change.Name = args[0]
			if change.Attributes, err = attributes(changed); err != nil {
				return err
			}
			var out control.Thing
			if err := a.call(ctx, "thing.update", change, &out); err != nil {
				return err
			}
			return a.did(out, "thing %s: version %d", out.Name, out.Version)
		})
	update.Flags().StringVar(&change.Type, "type", "", "thing type")
	update.Flags().StringArrayVar(&changed, "attribute", nil, "NAME=VALUE, may be repeated; NAME= removes it")
	update.Flags().Int64Var(&change.Version, "version", 0, "the version it must have")

	var q control.ListRequest
	list := pages(verbCmd("list", "List things", "weir thing list\nweir thing list --type pump\nweir thing list --attribute site=north",
		func(ctx context.Context, args []string) error {
			in := q
			in.Attribute, in.Value, _ = strings.Cut(q.Attribute, "=")
			return listOf(a, "thing.list", "no things; `weir thing create` makes one", "NAME\tTYPE\tVERSION\tATTRIBUTES", &in, func(t control.Thing) []string {
				return []string{t.Name, t.Type, strconv.FormatInt(t.Version, 10), attributeText(t.Attributes)}
			})(ctx, args)
		}), &q)
	list.Flags().StringVar(&q.Type, "type", "", "things of this type")
	list.Flags().StringVar(&q.Attribute, "attribute", "", "things with this NAME=VALUE, or NAME")

	show := verbCmd("show NAME", "Show a thing, its groups and certificates", "weir thing show pump-7", func(ctx context.Context, args []string) error {
		var t control.Thing
		if err := a.call(ctx, "thing.show", control.Named{Name: args[0]}, &t); err != nil {
			return err
		}
		if a.output == "json" {
			return a.printJSON(t)
		}
		return a.fields([2]string{"thing", t.Name}, [2]string{"arn", t.ARN}, [2]string{"id", t.ID}, [2]string{"type", t.Type},
			[2]string{"attributes", attributeText(t.Attributes)}, [2]string{"version", strconv.FormatInt(t.Version, 10)},
			[2]string{"created", when(t.CreatedAt)}, [2]string{"groups", strings.Join(t.Groups, " ")}, [2]string{"certificates", strings.Join(t.Certificates, " ")})
	})
	var exclusive bool
	attach := verbCmd("attach NAME CERTIFICATE", "Attach a certificate to a thing", "weir thing attach pump-7 3f9c… --exclusive",
		a.act("thing.attach", func(args []string) any {
			return control.Link{Thing: args[0], Certificate: args[1], Exclusive: exclusive}
		}, "thing %s: certificate %s attached"))
	attach.Flags().BoolVar(&exclusive, "exclusive", false, "to this thing alone")
	return a.nounCmd("thing", "Create, list, show, change and delete things", "A thing is a device, or what stands for one: a name, a type, attributes, and the certificates\nit connects with.",
		create, list, show, update, attach,
		verbCmd("detach NAME CERTIFICATE", "Detach a certificate from a thing", "weir thing detach pump-7 3f9c…",
			a.act("thing.detach", func(args []string) any { return control.Link{Thing: args[0], Certificate: args[1]} }, "thing %s: certificate %s detached")),
		verbCmd("delete NAME", "Delete a thing no certificate is attached to", "weir thing delete pump-7", a.act("thing.delete", named, "thing %s: deleted")))
}

func when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

func (a *app) typeCmd() *cobra.Command {
	var in control.ThingType
	create := verbCmd("create NAME", "Create a thing type; the same again is no error", "weir type create pump --searchable maker,site",
		func(ctx context.Context, args []string) error {
			in.Name = args[0]
			var out control.ThingType
			if err := a.call(ctx, "type.create", in, &out); err != nil {
				return err
			}
			return a.did(out, "thing type %s: created", out.Name)
		})
	create.Flags().StringVar(&in.Description, "description", "", "what it is")
	create.Flags().StringSliceVar(&in.Searchable, "searchable", nil, "attributes that can be searched for, up to three")
	var q control.ListRequest
	state := func(t control.ThingType) string {
		if t.Deprecated {
			return "deprecated"
		}
		return "in use"
	}
	var undo bool
	deprecate := verbCmd("deprecate NAME", "Keep things from being given the type", "weir type deprecate pump\nweir type deprecate pump --undo",
		a.act("type.deprecate", func(args []string) any { return control.Named{Name: args[0], Undo: undo} }, "thing type %s: changed"))
	deprecate.Flags().BoolVar(&undo, "undo", false, "allow it again")
	return a.nounCmd("type", "Create, list, deprecate and delete thing types", "",
		create,
		pages(verbCmd("list", "List thing types", "weir type list", listOf(a, "type.list", "no thing types", "NAME\tSTATE\tSEARCHABLE\tDESCRIPTION", &q, func(t control.ThingType) []string {
			return []string{t.Name, state(t), strings.Join(t.Searchable, ","), t.Description}
		})), &q),
		verbCmd("show NAME", "Show a thing type", "weir type show pump", func(ctx context.Context, args []string) error {
			var t control.ThingType
			if err := a.call(ctx, "type.show", control.Named{Name: args[0]}, &t); err != nil {
				return err
			}
			if a.output == "json" {
				return a.printJSON(t)
			}
			return a.fields([2]string{"thing type", t.Name}, [2]string{"state", state(t)}, [2]string{"searchable", strings.Join(t.Searchable, " ")},
				[2]string{"description", t.Description}, [2]string{"created", when(t.CreatedAt)})
		}),
		deprecate,
		verbCmd("delete NAME", "Delete a thing type five minutes after it was deprecated", "weir type delete pump", a.act("type.delete", named, "thing type %s: deleted")))
}

func (a *app) groupCmd() *cobra.Command {
	var in control.Group
	var flags []string
	create := verbCmd("create NAME", "Create a thing group; the same again is no error", "weir group create pumps\nweir group create pumps-north --parent pumps",
		func(ctx context.Context, args []string) (err error) {
			in.Name = args[0]
			if in.Attributes, err = attributes(flags); err != nil {
				return err
			}
			var out control.Group
			if err := a.call(ctx, "group.create", in, &out); err != nil {
				return err
			}
			return a.did(out, "thing group %s: created", out.Name)
		})
	create.Flags().StringVar(&in.Parent, "parent", "", "the group it is in")
	create.Flags().StringVar(&in.Description, "description", "", "what it is for")
	create.Flags().StringArrayVar(&flags, "attribute", nil, "NAME=VALUE, may be repeated")
	var q control.ListRequest
	link := func(args []string) any { return control.Link{Group: args[0], Thing: args[1]} }
	return a.nounCmd("group", "Create, list, show and delete thing groups, add and remove things", "",
		create,
		pages(verbCmd("list", "List thing groups", "weir group list", listOf(a, "group.list", "no thing groups", "NAME\tPARENT\tDESCRIPTION", &q, func(g control.Group) []string {
			return []string{g.Name, g.Parent, g.Description}
		})), &q),
		verbCmd("show NAME", "Show a thing group with its things and policies", "weir group show pumps", func(ctx context.Context, args []string) error {
			var g control.Group
			if err := a.call(ctx, "group.show", control.Named{Name: args[0]}, &g); err != nil {
				return err
			}
			if a.output == "json" {
				return a.printJSON(g)
			}
			return a.fields([2]string{"thing group", g.Name}, [2]string{"arn", g.ARN}, [2]string{"parent", g.Parent}, [2]string{"description", g.Description},
				[2]string{"attributes", attributeText(g.Attributes)}, [2]string{"created", when(g.CreatedAt)},
				[2]string{"policies", strings.Join(g.Policies, " ")}, [2]string{"things", strings.Join(g.Things, " ")})
		}),
		verbCmd("add GROUP THING", "Put a thing into a group", "weir group add pumps pump-7", a.act("group.add", link, "thing group %s: thing %s added")),
		verbCmd("remove GROUP THING", "Take a thing out of a group", "weir group remove pumps pump-7", a.act("group.remove", link, "thing group %s: thing %s removed")),
		verbCmd("delete NAME", "Delete a group no group is in; its things stay", "weir group delete pumps", a.act("group.delete", named, "thing group %s: deleted")))
}
