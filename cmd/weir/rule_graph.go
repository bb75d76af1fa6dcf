package main

import (
	"fmt"
	"html"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/control"
)

func (a *app) ruleGraphCmd() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "graph",
		Short: "Show how topics lead to rules, rules to actions, and actions to topics",
		Example: `  weir rule graph
  weir rule graph --format svg > rules.svg
  weir rule graph --format dot | dot -Tpng > rules.png`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			draw := map[string]func(io.Writer, *control.Graph){"text": graphText, "dot": graphDOT, "svg": graphSVG}[format]
			if draw == nil {
				return usagef("--format: expected text, dot or svg, found %q", format)
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			g, err := cl.Graph(cmd.Context())
			if err != nil {
				return a.unreachable(err)
			}
			if a.output == "json" {
				return a.printJSON(g)
			}
			draw(a.stdout, g)
			return nil
		},
	}
	c.Flags().StringVar(&format, "format", "text", "text, dot or svg")
	return c
}

func from(r *control.GraphRule) string {
	if r.From == "" {
		return "Basic Ingest only"
	}
	return r.From
}

func edgeText(e control.GraphEdge) string {
	if e.Target == "" {
		return e.Action
	}
	return e.Action + " " + e.Target
}

func loopText(names []string) string { return strings.Join(append(names, names[0]), " → ") }

func graphText(w io.Writer, g *control.Graph) {
	if len(g.Rules) == 0 {
		fmt.Fprintln(w, "no rules")
	}
	for i := range g.Rules {
		r := &g.Rules[i]
		fmt.Fprintf(w, "%s → rule %s", printable(from(r)), r.Name)
		if r.Where {
			fmt.Fprint(w, " (WHERE)")
		}
		if !r.Enabled {
			fmt.Fprint(w, " (disabled)")
		}
		fmt.Fprintln(w)
		for _, e := range r.Actions {
			fmt.Fprintf(w, "  → %s\n", printable(edgeText(e)))
		}
		for _, e := range r.Error {
			fmt.Fprintf(w, "  on error → %s\n", printable(edgeText(e)))
		}
		for _, l := range r.Leads {
			word := "reaches"
			if !l.Certain {
				word = "may reach"
			}
			fmt.Fprintf(w, "  %s rule %s\n", word, l.Rule)
		}
	}
	for _, l := range g.Loops {
		fmt.Fprintf(w, "loop: %s\n", loopText(l))
	}
}

func graphDOT(w io.Writer, g *control.Graph) {
	q := func(s string) string {
		return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(printable(s)) + `"`
	}
	fmt.Fprintln(w, "digraph rules {\n  rankdir=LR;\n  node [fontname=\"Helvetica\"];")
	for i := range g.Rules {
		r := &g.Rules[i]
		style := "solid"
		if !r.Enabled {
			style = "dashed"
		}
		fmt.Fprintf(w, "  %s [shape=box, style=%s, label=%s];\n", q("rule "+r.Name), style, q(r.Name))
		fmt.Fprintf(w, "  %s [shape=plaintext];\n  %s -> %s;\n", q(from(r)), q(from(r)), q("rule "+r.Name))
		for _, e := range r.Actions {
			fmt.Fprintf(w, "  %s -> %s;\n", q("rule "+r.Name), q(edgeText(e)))
		}
		for _, e := range r.Error {
			fmt.Fprintf(w, "  %s -> %s [style=dotted, label=\"on error\"];\n", q("rule "+r.Name), q(edgeText(e)))
		}
		for _, l := range r.Leads {
			style := "bold"
			if !l.Certain {
				style = "dashed"
			}
			fmt.Fprintf(w, "  %s -> %s [style=%s, constraint=false];\n", q("rule "+r.Name), q("rule "+l.Rule), style)
		}
	}
	fmt.Fprintln(w, "}")
}

// graphSVG draws a row a rule: topic, rule, actions; and an arc from each rule to
// those its republish actions reach.
func graphSVG(w io.Writer, g *control.Graph) {
	const (
		line, pad          = 18, 14
		topicX, ruleX      = 10, 380
		actionX, width     = 620, 1060
		ruleWidth, charPix = 170, 7
	)
	esc := func(s string, n int) string { return html.EscapeString(short(printable(s), n)) }
	y, middle := 10, map[string]int{}
	var rows strings.Builder
	for i := range g.Rules {
		r := &g.Rules[i]
		actions := append([]control.GraphEdge{}, r.Actions...)
		height := line*max(1, len(actions)+len(r.Error)) + pad
		mid := y + height/2
		middle[r.Name] = mid
		dash := ""
		if !r.Enabled {
			dash = ` stroke-dasharray="4 3"`
		}
		name := r.Name
		if r.Where {
			name += " (WHERE)"
		}
		fmt.Fprintf(&rows, `<text x="%d" y="%d">%s</text>`+"\n", topicX, mid+4, esc(from(r), 48))
		fmt.Fprintf(&rows, `<path class="edge" d="M%d %d H%d"/>`+"\n", min(ruleX-20, topicX+charPix*len([]rune(short(from(r), 48)))+8), mid, ruleX-4)
		fmt.Fprintf(&rows, `<rect x="%d" y="%d" width="%d" height="%d" rx="5"%s/><text x="%d" y="%d">%s</text>`+"\n", ruleX, mid-14, ruleWidth, 28, dash, ruleX+8, mid+4, esc(name, 23))
		for k, e := range append(actions, r.Error...) {
			at, class, label := y+pad/2+k*line+line/2, "edge", edgeText(e)
			if k >= len(actions) {
				class, label = "edge error", "on error: "+label
			}
			fmt.Fprintf(&rows, `<path class="%s" d="M%d %d L%d %d"/><text x="%d" y="%d">%s</text>`+"\n", class, ruleX+ruleWidth, mid, actionX-6, at, actionX, at+4, esc(label, 60))
		}
		y += height + 8
	}
	for i := range g.Rules {
		for _, l := range g.Rules[i].Leads {
			a, b := middle[g.Rules[i].Name], middle[l.Rule]
			class := "edge lead"
			if !l.Certain {
				class += " maybe"
			}
			if a == b {
				fmt.Fprintf(&rows, `<path class="%s" d="M%d %d c-30 -34 60 -34 30 0"/>`+"\n", class, ruleX+60, a-14)
				continue
			}
			fmt.Fprintf(&rows, `<path class="%s" d="M%d %d C%d %d %d %d %d %d"/>`+"\n", class, ruleX+ruleWidth, a+8, ruleX+ruleWidth+50, a+8, ruleX+ruleWidth+50, b-8, ruleX+ruleWidth+2, b-8)
		}
	}
	for _, l := range g.Loops {
		y += line
		fmt.Fprintf(&rows, `<text x="%d" y="%d" class="loop">loop: %s</text>`+"\n", topicX, y, esc(loopText(l), 120))
	}
	fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" aria-label="rules">
<style>
svg{background:#fff;font:12px ui-monospace,Menlo,Consolas,monospace}
rect{fill:#eef4fb;stroke:#3b6ea5}
.edge{fill:none;stroke:#8a97a6;marker-end:url(#tip)}
.error{stroke-dasharray:2 3}
.lead{stroke:#c2571a;stroke-width:1.6}
.maybe{stroke-dasharray:5 4}
.loop{fill:#b3261e}
</style>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" fill="context-stroke"/></marker></defs>
%s</svg>
`, width, y+20, width, y+20, rows.String())
}
