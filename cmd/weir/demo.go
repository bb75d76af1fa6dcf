package main

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/internal/config"
	"github.com/weir-iot/weir/internal/mqttclient"
	"github.com/weir-iot/weir/internal/rulefolder"
	"github.com/weir-iot/weir/internal/server"
)

//go:embed demo/*.yaml
var demoRules embed.FS

const (
	demoDevices = 20
	demoEvery   = 200 * time.Millisecond // between two messages of a device
	demoBucket  = "hot-readings"
	demoFilter  = "factory/#"

	// settle is how long the end waits for results that are still under way.
	settle = 10 * time.Second
)

type demoOptions struct {
	length    time.Duration // 0: until interrupted
	temporary bool          // the data folder is a temporary one
	rules     bool          // the user has brought rules of their own
}

// demonstration is a running demo.
type demonstration struct {
	a       *app
	o       demoOptions
	run     *running
	ends    server.Endpoints
	client  *control.Client
	rules   string // folder
	fleet   *fleet
	hook    *receiver
	objects objects
	alerts  subscriber
	started time.Time

	stored   atomic.Uint64 // messages of the fleet on the log, counted by reading it
	gaps     atomic.Uint64 // events the count missed because they were trimmed
	base     map[string]control.Account
	objects0 int // objects that were there before
}

// demo runs a Weir, a fleet, and the destinations of three rules, shows them at
// work, and closes with an account of every message.
func (a *app) demo(ctx context.Context, cfg *config.Config, o demoOptions) (err error) {
	if o.temporary {
		dir, err := os.MkdirTemp("", "weir-demo-")
		if err != nil {
			return err
		}
		cfg.DataDir = dir
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return err
	}
	defer func() {
		if !o.temporary {
			return
		}
		if err != nil && !isRefusedStart(err) {
			fmt.Fprintf(a.stderr, "The data folder is kept, to look at: %s\n", cfg.DataDir)
			return
		}
		os.RemoveAll(cfg.DataDir)
	}()

	// The view owns the terminal: the log goes to a file.
	logFile, err := os.OpenFile(filepath.Join(cfg.DataDir, "weir.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer logFile.Close()
	logger, err := a.logger(cfg, logFile)
	if err != nil {
		return err
	}

	d := &demonstration{a: a, o: o}
	if err := d.prepareRules(cfg); err != nil {
		return err
	}
	notices := new(notices)
	s, err := server.New(ctx, server.Options{Config: cfg, Dev: true, Logger: logger, RuleFile: notices.ruleFile})
	if err != nil {
		return a.explainStart(err, true)
	}
	if d.run, err = start(s); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.run.end()) }()
	d.ends = s.Endpoints()

	token, err := control.ReadToken(d.ends.TokenFile)
	if err != nil {
		return err
	}
	d.client = &control.Client{URL: d.ends.API, Token: token}
	d.objects.dir = filepath.Join(d.ends.DataDir, "s3", demoBucket)

	// Everything below is a client of the server and ends before it.
	side, stopSide := context.WithCancel(context.Background())
	var sides sync.WaitGroup
	defer func() { stopSide(); sides.Wait() }()
	sides.Add(1)
	go func() { defer sides.Done(); _ = d.hook.run(side) }()

	if err := d.awaitRules(ctx, notices); err != nil {
		return err
	}
	d.objects0 = d.objects.scan()
	d.base = map[string]control.Account{}
	for _, r := range d.ruleStatus(ctx) {
		for _, l := range r.Actions {
			d.base[r.Name] = l.Account
		}
	}
	sub, err := mqttclient.Connect(ctx, mqttclient.Options{Addr: d.addr(), TLS: nil, ClientID: "demo-console", OnMessage: d.alerts.message})
	if err != nil {
		return err
	}
	defer sub.Close()
	if err := sub.Subscribe(ctx, 1, "alerts/#"); err != nil {
		return err
	}
	counting := make(chan error, 1)
	counted := make(chan struct{})
	sides.Add(1)
	go func() { defer sides.Done(); counting <- d.count(side, counted) }()
	select {
	case <-counted:
	case err := <-counting:
		return fmt.Errorf("reading the log: %w", err)
	case <-ctx.Done():
		return ctx.Err()
	}

	files := tlsFiles{d.ends.CAFile, d.ends.CertFile, d.ends.KeyFile}
	secure, err := files.config("localhost")
	if err != nil {
		return err
	}
	d.fleet = &fleet{o: fleetOptions{devices: demoDevices, every: demoEvery, plain: d.ends.MQTT, secure: d.ends.MQTTS, tls: secure}}
	d.started = time.Now()
	publishing, stopPublishing := context.WithCancel(ctx)
	fleetDone := make(chan struct{})
	go func() { d.fleet.run(publishing); close(fleetDone) }()

	d.view(ctx, notices)
	stopPublishing()
	took := time.Since(d.started)
	<-fleetDone
	acc := d.account(took)
	if a.output == "json" {
		if err := a.printJSON(acc); err != nil {
			return err
		}
	} else {
		acc.print(a.stdout)
		if o.temporary && acc.AddsUp {
			fmt.Fprintf(a.stdout, "\nThe data folder was temporary and is gone; keep it with --data DIR.\n")
		}
	}
	if !acc.AddsUp {
		return &exitError{code: exitFailure, text: "the account does not add up"}
	}
	return nil
}

func isRefusedStart(err error) bool {
	var exit *exitError
	return errors.As(err, &exit) && (exit.code == exitRefused || strings.Contains(exit.text, "in use"))
}

func (d *demonstration) addr() string { return d.ends.MQTT }

// prepareRules puts the demo's rules into the rules folder, as files for people
// to read and edit. Files that are there from an earlier run stay, but for the
// webhook's address.
func (d *demonstration) prepareRules(cfg *config.Config) error {
	if cfg.RulesDir == "" {
		cfg.RulesDir = filepath.Join(cfg.DataDir, "rules")
	}
	d.rules = cfg.RulesDir
	if err := os.MkdirAll(d.rules, 0o755); err != nil {
		return err
	}
	// The same port as last time, if it can be had: results that wait for the
	// webhook find it there.
	note := filepath.Join(cfg.DataDir, "demo-webhook")
	old, err := os.ReadFile(note)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	before := strings.TrimSpace(string(old))
	ask := before
	if ask == "" || !config.Loopback(ask) {
		ask = "127.0.0.1:0"
	}
	if d.hook, err = newReceiver(ask); err != nil {
		return err
	}
	addr := d.hook.listener.Addr().String()
	if err := os.WriteFile(note, []byte(addr+"\n"), 0o600); err != nil {
		return err
	}
	if d.o.rules {
		return nil
	}
	names, err := fs.Glob(demoRules, "demo/*.yaml")
	if err != nil {
		return err
	}
	for _, name := range names {
		content, err := demoRules.ReadFile(name)
		if err != nil {
			return err
		}
		path := filepath.Join(d.rules, filepath.Base(name))
		if have, err := os.ReadFile(path); err == nil {
			content = have
			if before != "" {
				content = bytes.ReplaceAll(content, []byte(before), []byte(addr))
			}
		}
		content = bytes.ReplaceAll(content, []byte("WEBHOOK"), []byte(addr))
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// awaitRules waits until the engine runs every rule, so that the first message
// meets them all.
func (d *demonstration) awaitRules(ctx context.Context, n *notices) error {
	files, err := rulefolder.Read(d.rules)
	if err != nil {
		return err
	}
	want := len(files)
	limit := time.Now().Add(10 * time.Second)
	for {
		if refused := n.takeRefused(); refused != "" {
			return &exitError{exitRefused, refused}
		}
		list, err := d.client.Rules(ctx)
		if err != nil {
			return err
		}
		running := 0
		for _, r := range list {
			if r.Problem != "" {
				return fmt.Errorf("rule %s does not run: %s", r.Name, r.Problem)
			}
			if len(r.Actions) > 0 && r.Actions[0].State != "starting" {
				running++
			}
		}
		if running >= want && running == len(list) {
			return nil
		}
		if time.Now().After(limit) {
			return fmt.Errorf("%d of %d rules run after 10 seconds; the log says why", running, max(want, len(list)))
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// count reads the log from now on and counts the fleet's messages on it.
func (d *demonstration) count(ctx context.Context, begun chan<- struct{}) error {
	// The server reads on from the end it saw when the request came; so a first
	// line of our own says that it has.
	opened := false
	return d.client.TailOpened(ctx, control.TailOptions{Filter: demoFilter, Follow: true}, func() {
		if !opened {
			opened = true
			close(begun)
		}
	}, func(l *control.TailLine, _ []byte) error {
		switch {
		case l.Gap != nil:
			d.gaps.Add(l.Gap.To - l.Gap.From + 1)
		case strings.HasPrefix(l.ClientID, clientPrefix):
			d.stored.Add(1)
		}
		return nil
	})
}

func (d *demonstration) ruleStatus(ctx context.Context) []control.Rule {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	list, err := d.client.Rules(ctx)
	if err != nil {
		return nil
	}
	return list
}

// account is what became of every message of a demo.
type account struct {
	Seconds   float64      `json:"seconds"`
	Published uint64       `json:"published"` // and acknowledged
	Refused   uint64       `json:"refused"`   // acknowledged with an error
	Unknown   uint64       `json:"unknown"`   // sent, no answer before the connection ended
	Stored    uint64       `json:"stored"`    // of the fleet's, on the log
	Trimmed   uint64       `json:"trimmed"`   // events the count missed
	Rules     []ruleResult `json:"rules"`
	Problems  []string     `json:"problems,omitempty"`
	AddsUp    bool         `json:"addsUp"`
}

type ruleResult struct {
	Rule   string `json:"ruleName"`
	Action string `json:"action"`
	control.Account
	Arrived *int   `json:"arrived,omitempty"` // counted at the destination
	What    string `json:"-"`
}

// account waits until all that was published has been dealt with, or settle has
// passed, and adds up.
func (d *demonstration) account(took time.Duration) *account {
	acc := &account{Seconds: took.Seconds(), Published: d.fleet.acked.Load(), Refused: d.fleet.refused.Load(), Unknown: d.fleet.unknown.Load()}
	limit := time.Now().Add(settle)
	var list []control.Rule
	for {
		list = d.ruleStatus(context.Background())
		busy := d.stored.Load() < acc.Published
		for _, r := range list {
			busy = busy || r.Enabled && r.Lag > 0
			for _, l := range r.Actions {
				busy = busy || l.Pending > 0
			}
		}
		if list != nil && !busy && d.arrivedAll(list) || time.Now().After(limit) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	acc.Stored, acc.Trimmed = d.stored.Load(), d.gaps.Load()
	if acc.Stored < acc.Published {
		acc.problem("%s acknowledged messages are not on the log", count(acc.Published-acc.Stored))
	}
	if acc.Stored > acc.Published+acc.Unknown {
		acc.problem("%s messages are on the log that were never acknowledged, and never sent without an answer", count(acc.Stored-acc.Published-acc.Unknown))
	}
	if list == nil {
		acc.problem("the rules could not be read")
	}
	for _, r := range list {
		for i, l := range r.Actions {
			res := ruleResult{Rule: r.Name, Action: l.Action, Account: d.since(r.Name, i, l.Account)}
			if !l.AddsUp() {
				acc.problem("rule %s: matched %d is not delivered %d + error action %d + dead %d + pending %d", r.Name, l.Matched, l.Delivered, l.ErrorDelivered, l.Dead, l.Pending)
			}
			if n, what, ok := d.arrived(r.Name); ok {
				res.Arrived, res.What = &n, what
				if uint64(n) < res.Delivered {
					acc.problem("rule %s: %d delivered, only %d arrived", r.Name, res.Delivered, n)
				}
			}
			acc.Rules = append(acc.Rules, res)
		}
	}
	acc.AddsUp = len(acc.Problems) == 0
	return acc
}

// since takes off what was there when the demo began.
func (d *demonstration) since(rule string, action int, a control.Account) control.Account {
	b := d.base[rule]
	if action > 0 || b.Matched > a.Matched {
		return a
	}
	return control.Account{Matched: a.Matched - b.Matched + b.Pending, Delivered: a.Delivered - b.Delivered,
		ErrorDelivered: a.ErrorDelivered - b.ErrorDelivered, Dead: a.Dead - b.Dead, Pending: a.Pending}
}

// arrived is what the destination of one of the demo's rules has counted.
func (d *demonstration) arrived(rule string) (n int, what string, ok bool) {
	switch rule {
	case "hot_readings":
		return d.objects.scan() - d.objects0, "objects", true
	case "low_battery":
		n, _, _ := d.hook.state()
		return n, "requests", true
	case "alerts":
		n, _, _ := d.alerts.state()
		return n, "messages", true
	}
	return 0, "", false
}

// arrivedAll reports whether destinations have seen what was delivered: a
// republished message is on the log a moment before its subscriber has it.
func (d *demonstration) arrivedAll(list []control.Rule) bool {
	for _, r := range list {
		if n, _, ok := d.arrived(r.Name); ok && len(r.Actions) == 1 && uint64(n) < d.since(r.Name, 0, r.Actions[0].Account).Delivered {
			return false
		}
	}
	return true
}

func (acc *account) problem(format string, args ...any) {
	acc.Problems = append(acc.Problems, fmt.Sprintf(format, args...))
}

func (acc *account) print(out io.Writer) {
	fmt.Fprintf(out, "The account of %.1f seconds\n\n", acc.Seconds)
	w := table(out)
	fmt.Fprintf(w, "  published and acknowledged\t%s\n", count(acc.Published))
	fmt.Fprintf(w, "  on the log\t%s\n", count(acc.Stored))
	if acc.Refused > 0 {
		fmt.Fprintf(w, "  refused\t%s\n", count(acc.Refused))
	}
	if acc.Unknown > 0 {
		fmt.Fprintf(w, "  without an answer\t%s\n", count(acc.Unknown))
	}
	w.Flush()
	fmt.Fprintln(out)
	w = table(out)
	fmt.Fprintln(w, "  rule\taction\tmatched\t= delivered\t+ error action\t+ dead\t+ pending\tarrived there")
	for _, r := range acc.Rules {
		there := "-"
		if r.Arrived != nil {
			there = count(uint64(*r.Arrived)) + " " + r.What
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\t= %s\t+ %s\t+ %s\t+ %s\t%s\n", r.Rule, r.Action,
			count(r.Matched), count(r.Delivered), count(r.ErrorDelivered), count(r.Dead), count(r.Pending), there)
	}
	w.Flush()
	if acc.Trimmed > 0 {
		fmt.Fprintf(out, "\n%s events were trimmed from the log before the count had read them.\n", count(acc.Trimmed))
	}
	fmt.Fprintln(out)
	if acc.AddsUp {
		fmt.Fprintln(out, "It adds up: every acknowledged message is on the log, every match is accounted for.")
		return
	}
	for _, p := range acc.Problems {
		fmt.Fprintf(out, "WRONG: %s\n", p)
	}
}
