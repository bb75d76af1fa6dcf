package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/internal/server"
)

func (a *app) devCmd() *cobra.Command {
	var file, rulesDir, portBase string
	var demo bool
	var length time.Duration
	c := &cobra.Command{
		Use:   "dev",
		Short: "Run Weir for development, on loopback; --demo shows it at work",
		Long: `Runs Weir with a plain MQTT port, its own certificate authority and an S3 of its own: no
account, container or other server is needed. Everything listens on loopback only.

With --demo, 20 simulated devices publish telemetry over MQTT and three rules send it to S3,
to a webhook and to another topic. The data folder is temporary unless --data names one. At
the end it prints an account of every message, and fails if it does not add up.`,
		Example: `  weir dev
  weir dev --demo
  weir dev --demo --for 20s
  weir dev --rules ./rules --ports 0`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if length < 0 || length > 0 && length < time.Second {
				return usagef("--for %s: at least 1s", length)
			}
			cfg, err := a.loadConfig(file, true)
			if err != nil {
				return err
			}
			if portBase != "" {
				if err := ports(cfg, portBase); err != nil {
					return err
				}
			}
			if rulesDir != "" {
				cfg.RulesDir = rulesDir
			}
			if demo {
				return a.demo(cmd.Context(), cfg, demoOptions{length: length, temporary: a.target.data == "" && a.getenv("WEIR_DATA_DIR") == "" && file == "", rules: rulesDir != ""})
			}
			logger, err := a.logger(cfg, a.stderr)
			if err != nil {
				return err
			}
			s, err := server.New(cmd.Context(), server.Options{Config: cfg, Dev: true, Logger: logger, RuleFile: a.ruleFile})
			if err != nil {
				return a.explainStart(err, true)
			}
			r, err := start(s)
			if err != nil {
				return err
			}
			e := s.Endpoints()
			if a.output == "json" {
				if err := a.printJSON(e); err != nil {
					return errors.Join(err, r.end())
				}
			} else {
				a.greet(&e, cfg.Durability, cfg.RulesDir)
			}
			var after <-chan time.Time
			if length > 0 {
				after = time.After(length)
			}
			select {
			case <-cmd.Context().Done():
			case <-after:
			case <-r.done:
			}
			return r.end()
		},
	}
	c.Flags().BoolVar(&demo, "demo", false, "run a simulated fleet and three rules, with a live view")
	c.Flags().DurationVar(&length, "for", 0, "stop by itself after this time, such as 20s")
	c.Flags().StringVar(&rulesDir, "rules", "", "folder of rule files, applied now and whenever one changes")
	c.Flags().StringVar(&portBase, "ports", "", "0: free ports; N: N, N+1, … (default: 1883, 8883, 8443, 8080, 4222, 4443)")
	c.Flags().StringVarP(&file, "config", "c", "", "configuration file (default: none)")
	return c
}

func (a *app) greet(e *server.Endpoints, durability, rulesDir string) {
	fmt.Fprintf(a.stdout, "Weir is ready. Everything listens on loopback only; data in %s, durability %s.\n\n", e.DataDir, durability)
	w := table(a.stdout)
	row := func(name, value, note string) {
		if value != "" {
			fmt.Fprintf(w, "  %s\t%s\t%s\n", name, value, note)
		}
	}
	row("MQTT", e.MQTT, "plain, no credentials")
	row("MQTT over TLS", e.MQTTS, "client certificate")
	row("HTTPS", e.HTTPS, "POST /topics/<topic>?qos=1, client certificate")
	row("all over TLS", e.Mux, "by ALPN name, as AWS on 443: MQTT, WebSocket /mqtt, HTTPS")
	row("API", e.API, "/metrics /healthz, and what the command line uses")
	if e.NATS != "" {
		row("NATS", "nats://"+e.NATS, "the log itself, for data teams")
	}
	row("S3", filepath.Join(e.DataDir, "s3"), "where the s3 action writes, a folder a bucket")
	row("rules", rulesDir, "applied now and whenever a file changes")
	w.Flush()
	weir := a.command(e.DataDir)
	fmt.Fprintf(a.stdout, "\nIn another terminal:\n")
	for _, line := range []string{
		weir + " sub 'hello/#'",
		weir + " pub hello/world '{\"n\": 1}'",
		weir + " rule apply -f rule.yaml",
		weir + " tail --since 1h",
		`eval "$(` + weir + ` env)"`,
	} {
		fmt.Fprintf(a.stdout, "  %s\n", line)
	}
	fmt.Fprintf(a.stdout, "\nCtrl-C stops it.\n")
}

// command is how a user calls this binary for the data folder dir.
func (a *app) command(dir string) string {
	weir := self()
	if def, err := filepath.Abs("./weir-data"); err == nil && def == dir {
		return weir
	}
	return weir + " --data " + shellQuote(dir)
}

func isGoRun(exe string) bool {
	return strings.HasPrefix(exe, os.TempDir()) && strings.Contains(exe, "go-build") || strings.Contains(exe, filepath.Join("go-build", ""))
}
