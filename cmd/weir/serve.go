package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/internal/config"
	"github.com/weir-iot/weir/internal/server"
	"github.com/weir-iot/weir/internal/telemetry"
)

func (a *app) serveCmd() *cobra.Command {
	var file, role string
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run Weir in production",
		Long: `Runs Weir as weir.yaml and the WEIR_* environment say; without a file, with the defaults.
It stops at SIGINT or SIGTERM: listeners first, then what is under way, then the log.
Everything that was acknowledged is on the log at any moment, also at kill -9.`,
		Example: `  weir config > weir.yaml
  weir serve --config weir.yaml
  WEIR_DATA_DIR=/var/lib/weir WEIR_LISTEN_MQTTS=0.0.0.0:8883 weir serve
  WEIR_NATS_URL=nats://127.0.0.1:4222 weir serve --data ./rules-1 --role rules`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.loadConfig(file, false)
			if err != nil {
				return err
			}
			if role != "" {
				if role == "all" {
					role = ""
				}
				if err := cfg.Set("roles", role); err != nil {
					return usagef("--role: %s", strings.TrimPrefix(err.Error(), "roles: "))
				}
				if err := cfg.Validate(); err != nil {
					return err
				}
			}
			logger, err := a.logger(cfg, a.stderr)
			if err != nil {
				return err
			}
			s, err := server.New(cmd.Context(), server.Options{Config: cfg, Logger: logger, RuleFile: a.ruleFile})
			if err != nil {
				return a.explainStart(err, false)
			}
			go func() {
				select {
				case <-s.Ready():
					e := s.Endpoints()
					logger.Info("ready", "version", telemetry.ReadBuild().Version, "roles", s.Roles(), "data", e.DataDir, "durability", cfg.Durability,
						"mqtts", e.MQTTS, "https", e.HTTPS, "mux", e.Mux, "api", e.API, "nats", e.NATS)
				case <-cmd.Context().Done():
				}
			}()
			return errors.Join(s.Run(cmd.Context()), s.Close())
		},
	}
	c.Flags().StringVarP(&file, "config", "c", "", "configuration file (default: none, every key has a default)")
	c.Flags().StringVar(&role, "role", "", "which parts to run: "+strings.Join(config.Roles, ", ")+", several with commas (default: as roles in the configuration says, all)")
	return c
}

// loadConfig reads the file and the environment; --data wins over both.
func (a *app) loadConfig(file string, dev bool) (*config.Config, error) {
	cfg, err := config.Load(file, dev, a.environ, server.Check)
	if err != nil {
		return nil, err
	}
	if a.target.data != "" {
		cfg.DataDir = a.target.data
	}
	return cfg, nil
}

func (a *app) logger(cfg *config.Config, w io.Writer) (*slog.Logger, error) {
	logger, err := telemetry.NewLogger(w, cfg.Log.Level, cfg.Log.Format)
	if err != nil {
		return nil, err
	}
	for _, text := range config.UnknownEnv(a.environ) {
		logger.Warn(text)
	}
	return logger, nil
}

// ruleFile prints what became of a file of the rules folder where it was
// refused: the log has one line, a person wants to see the place.
func (a *app) ruleFile(file string, _ []control.Applied, err error) {
	if err == nil {
		return
	}
	text := err.Error()
	var d control.Detailed
	if errors.As(err, &d) {
		text = d.Detail()
	}
	fmt.Fprintf(a.stderr, "%s\n", printableLines(located(file, text)))
}

// explainStart says what can be done about a start that failed.
func (a *app) explainStart(err error, dev bool) error {
	var taken *server.PortError
	if errors.As(err, &taken) {
		remedy := "set " + taken.Key + " or " + config.Lookup(taken.Key).Env() + " to another address"
		if dev {
			remedy = "stop that process, or start with --ports 0 to take free ports"
		}
		return &exitError{exitFailure, fmt.Sprintf("%s; %s", taken.Error(), remedy)}
	}
	var folder *server.FolderError
	if errors.As(err, &folder) {
		return &exitError{exitFailure, folder.Error() + ": stop it, or name another folder with --data"}
	}
	return err
}

// ports gives the listeners of cfg other ports: base, base+1, …, or any free
// ones for 0.
func ports(cfg *config.Config, s string) error {
	base, err := strconv.Atoi(s)
	if err != nil || base < 0 || base > 65000 {
		return usagef("--ports %s: expected 0 for free ports, or the first of six port numbers", s)
	}
	for i, addr := range []*string{&cfg.Listen.MQTT, &cfg.Listen.MQTTS, &cfg.Listen.HTTPS, &cfg.Listen.API, &cfg.Listen.NATS, &cfg.Listen.Mux} {
		port := 0
		if base > 0 {
			port = base + i
		}
		if *addr != "" {
			host := "127.0.0.1"
			if h, _, err := net.SplitHostPort(*addr); err == nil && h == "localhost" {
				host = h // both loopback addresses
			}
			*addr = net.JoinHostPort(host, strconv.Itoa(port))
		}
	}
	return nil
}

// running is a server that runs beside the command.
type running struct {
	*server.Server
	stop context.CancelFunc
	done chan struct{}
	err  error // valid once done is closed
}

// start runs a server until end is called. It returns once it is served.
func start(s *server.Server) (*running, error) {
	ctx, stop := context.WithCancel(context.Background())
	r := &running{Server: s, stop: stop, done: make(chan struct{})}
	go func() {
		r.err = errors.Join(s.Run(ctx), s.Close())
		close(r.done)
	}()
	select {
	case <-s.Ready():
		return r, nil
	case <-r.done:
		stop()
		if r.err == nil {
			r.err = errors.New("the server ended before it was ready")
		}
		return nil, r.err
	}
}

// end stops the server and waits for it.
func (r *running) end() error {
	r.stop()
	<-r.done
	return r.err
}

// self is how a user calls this binary again.
func self() string {
	exe, err := os.Executable()
	if err == nil && isGoRun(exe) {
		return "go run ./cmd/weir"
	}
	return "weir"
}
