package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/internal/errs"
)

// notices keeps what the view should say of the rules folder.
type notices struct {
	mu    sync.Mutex // guards what follows
	text  string     // of the newest change, perhaps several lines
	at    time.Time
	fresh bool   // not yet printed
	bad   string // the file that text is about was refused
}

// ruleFile is told of the rules folder's files.
func (n *notices) ruleFile(file string, applied []control.Applied, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case err != nil:
		text := errs.Text(err)
		var d control.Detailed
		if errors.As(err, &d) {
			text = d.Detail()
		}
		n.text, n.bad = "refused: "+located(filepath.Base(file), text), file
	case applied[0].Result == "updated" || n.bad == file:
		n.text, n.bad = "rule "+applied[0].Name+" was changed and runs", ""
	default:
		return
	}
	n.at, n.fresh = time.Now(), true
}

// takeRefused returns the refusal that has not been shown yet.
func (n *notices) takeRefused() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.bad == "" || !n.fresh {
		return ""
	}
	n.fresh = false
	return n.text
}

// lines returns the notice for a screen: a refusal stays, good news passes.
func (n *notices) lines() (lines []string, bad bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.text == "" || n.bad == "" && time.Since(n.at) > 10*time.Second {
		return nil, false
	}
	return strings.Split(n.at.Format("15:04:05")+"  "+n.text, "\n"), n.bad != ""
}

// take returns the notice for a plain output, once.
func (n *notices) take() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.fresh {
		return nil
	}
	n.fresh = false
	return strings.Split(n.text, "\n")
}

// frame is what the view shows at one moment.
type frame struct {
	elapsed, length    time.Duration
	connected          int64
	published, stored  uint64
	rate               float64 // messages a second
	p50, p99           time.Duration
	rules              []control.Rule
	object, objectLast string
	hook, hookLast     string
	alert, alertLast   string
	trouble            string
}

// view shows the demo until ctx or its time ends: a screen where stdout is a
// terminal, a line a second elsewhere, nothing with -o json.
func (d *demonstration) view(ctx context.Context, n *notices) {
	out, tty := terminal(d.a.stdout)
	if d.a.output == "json" {
		tty = false
	}
	var end <-chan time.Time
	if d.o.length > 0 {
		end = time.After(d.o.length)
	}
	every := time.Second
	if tty {
		every = 500 * time.Millisecond
		fmt.Fprint(out, "\x1b[?1049h\x1b[?25l") // another screen, no cursor
		defer fmt.Fprint(out, "\x1b[?25h\x1b[?1049l")
	} else if d.a.output != "json" {
		d.introduce()
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	var rate rate
	var last frame
	for {
		f := d.frame(ctx, &last)
		f.rate = rate.add(time.Now(), f.published)
		last = f
		switch {
		case tty:
			width, height, err := term.GetSize(int(out.Fd()))
			if err != nil || width < 20 {
				width, height = 80, 24
			}
			d.draw(out, &f, n, width, height)
		case d.a.output != "json" && f.elapsed >= time.Second/2:
			d.line(d.a.stdout, &f)
			for _, l := range n.take() {
				fmt.Fprintf(d.a.stdout, "  %s\n", printableLines(l))
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-end:
			return
		case <-d.run.done:
			return
		case <-tick.C:
		}
	}
}

// rate is messages a second over the last two seconds.
type rate struct {
	at []time.Time
	n  []uint64
}

func (r *rate) add(at time.Time, n uint64) float64 {
	r.at, r.n = append(r.at, at), append(r.n, n)
	for len(r.at) > 2 && at.Sub(r.at[1]) >= 2*time.Second {
		r.at, r.n = r.at[1:], r.n[1:]
	}
	s := at.Sub(r.at[0]).Seconds()
	if s <= 0 {
		return 0
	}
	return float64(n-r.n[0]) / s
}

func (d *demonstration) frame(ctx context.Context, last *frame) frame {
	f := frame{
		elapsed: time.Since(d.started), length: d.o.length, connected: d.fleet.connected.Load(),
		published: d.fleet.acked.Load(), stored: d.stored.Load(), rules: d.ruleStatus(ctx),
	}
	f.p50, f.p99 = d.fleet.percentiles()
	if f.p50 == 0 {
		f.p50, f.p99 = last.p50, last.p99
	}
	d.objects.scan()
	if d.objects.newest != "" {
		f.object, _ = filepath.Rel(filepath.Dir(d.objects.dir), d.objects.newest)
		f.objectLast = d.objects.last
	}
	_, f.hook, f.hookLast = d.hook.state()
	_, f.alert, f.alertLast = d.alerts.state()
	if f.connected < demoDevices {
		d.fleet.mu.Lock()
		if err := d.fleet.lastErr; err != nil {
			f.trouble = err.Error()
		}
		d.fleet.mu.Unlock()
	}
	return f
}

// line is the view on anything but a terminal.
func (d *demonstration) line(w io.Writer, f *frame) {
	fmt.Fprintf(w, "%s  in %.0f/s, published %s, on the log %s", time.Now().Format("15:04:05"), f.rate, count(f.published), count(f.stored))
	for _, r := range f.rules {
		for _, l := range r.Actions {
			fmt.Fprintf(w, "; %s %s of %s delivered", r.Name, count(l.Delivered), count(l.Matched))
			if l.Pending > 0 {
				fmt.Fprintf(w, ", %s pending", count(l.Pending))
			}
			if lost := l.Dead + l.ErrorDelivered; lost > 0 {
				fmt.Fprintf(w, ", %s to the error action or dead", count(lost))
			}
		}
	}
	if f.trouble != "" {
		fmt.Fprintf(w, "; %d of %d devices connected: %s", f.connected, demoDevices, printable(f.trouble))
	}
	fmt.Fprintln(w)
}

func (d *demonstration) introduce() {
	fmt.Fprintf(d.a.stdout, "Weir is ready; data in %s. %d devices publish, three rules act.\n", d.ends.DataDir, demoDevices)
	for _, l := range d.next() {
		fmt.Fprintf(d.a.stdout, "  %s\n", l)
	}
}

// next is where to look while the demo runs.
func (d *demonstration) next() []string {
	weir := d.a.command(d.ends.DataDir)
	return []string{
		weir + " tail '" + demoFilter + "'",
		weir + " sub 'alerts/#'",
		weir + " rule status hot_readings",
		"edit " + filepath.Join(d.rules, "alerts.yaml") + "  (applied when saved)",
		"find " + d.objects.dir + " -name '*.json'",
		d.ends.API + "/metrics",
	}
}

// canvas collects lines of a screen, cut to its width.
type canvas struct {
	strings.Builder
	width, left int
	colour      bool
}

func (c *canvas) line(style, text string) {
	if c.left <= 0 {
		return
	}
	c.left--
	text = short(text, c.width)
	if style != "" && c.colour {
		text = style + text + "\x1b[0m"
	}
	c.WriteString(text + "\x1b[K")
	if c.left > 0 {
		c.WriteString("\r\n")
	}
}

const (
	bold = "\x1b[1m"
	dim  = "\x1b[2m"
	red  = "\x1b[31m"
)

func (d *demonstration) draw(out io.Writer, f *frame, n *notices, width, height int) {
	c := &canvas{width: width, left: height, colour: d.a.getenv("NO_COLOR") == ""}
	c.WriteString("\x1b[H")
	clock := f.elapsed.Truncate(time.Second).String()
	if f.length > 0 {
		clock += " of " + f.length.String()
	}
	head := fmt.Sprintf("Weir demo  %d of %d devices  %s", f.connected, demoDevices, clock)
	tail := "Ctrl-C ends with the account"
	if pad := width - utf8.RuneCountInString(head) - len(tail); pad > 1 {
		head += strings.Repeat(" ", pad) + tail
	}
	c.line(bold, head)
	c.line("", "")
	c.line("", fmt.Sprintf("in %.0f/s   published %s   on the log %s   PUBACK p50 %s p99 %s",
		f.rate, count(f.published), count(f.stored), milli(f.p50), milli(f.p99)))
	if f.trouble != "" {
		c.line(red, "  "+printable(f.trouble))
	}
	c.line("", "")
	c.line(dim, fmt.Sprintf("%-16s %-10s %9s %9s %9s %6s %8s  %s", "rule", "action", "matched", "delivered", "error act", "dead", "pending", "state"))
	for _, r := range f.rules {
		for _, l := range lanesOf(&r) {
			style := ""
			if l.State != "live" && l.State != "starting" {
				style = red
			}
			c.line(style, fmt.Sprintf("%-16s %-10s %9s %9s %9s %6s %8s  %s", short(r.Name, 16), l.Action, count(l.Matched), count(l.Delivered),
				count(l.ErrorDelivered), count(l.Dead), count(l.Pending), l.State))
			if l.State != "live" && l.LastError != "" {
				c.line(red, "  "+printable(l.LastError))
			}
		}
	}
	c.line("", "")
	c.line(dim, "last results")
	for _, l := range [][3]string{{"s3", f.object, f.objectLast}, {"http", f.hook, f.hookLast}, {"mqtt", f.alert, f.alertLast}} {
		if l[1] != "" {
			c.line("", fmt.Sprintf("  %-5s %s  %s", l[0], tailOf(printable(l[1]), 34), printable(l[2])))
		}
	}
	c.line("", "")
	if lines, bad := n.lines(); len(lines) > 0 {
		style := ""
		if bad {
			style = red
		}
		for _, l := range lines {
			c.line(style, strings.ReplaceAll(printableLines(l), "\t", " "))
		}
		c.line("", "")
	}
	c.line(dim, "look next, in another terminal")
	for _, l := range d.next() {
		c.line("", "  "+l)
	}
	c.WriteString("\x1b[J")
	_, _ = io.WriteString(out, c.String())
}

// tailOf cuts s to its last n characters.
func tailOf(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return "…" + string(r[len(r)-n+1:])
}

func milli(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}

// terminal returns w's file where w is a terminal that can be drawn on.
func terminal(w io.Writer) (*os.File, bool) {
	f, ok := w.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" && os.Getenv("TERM") != ""
}
