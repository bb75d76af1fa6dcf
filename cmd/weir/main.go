// Command weir is the whole of Weir: the server, and the command line that
// talks to a running one.
//
// A message comes in by the listeners `weir serve` or `weir dev` opens; every
// other command is a client of them, as a device (pub, sub) or as the owner
// (tail, rule, dead, status).
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/functions/sandbox"
	"github.com/weir-iot/weir/internal/config"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/mqttclient"
	"github.com/weir-iot/weir/internal/suggest"
)

// Exit codes, also in `weir --help`.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitUnreachable = 3
	exitRefused     = 4
	exitInterrupted = 130
)

func main() {
	sandbox.Main() // this process may be the beginning of a function's
	ctx, stop := interruptible(context.Background())
	code := run(ctx, &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, environ: os.Environ()}, os.Args[1:])
	stop()
	os.Exit(code)
}

// interruptible returns a context that ends at the first SIGINT or SIGTERM; the
// second ends the process at once.
func interruptible(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	ended := make(chan struct{})
	go func() {
		select {
		case <-signals:
			cancel()
		case <-ended:
			return
		}
		select {
		case <-signals:
			fmt.Fprintln(os.Stderr, "weir: interrupted again: stopped without waiting; nothing acknowledged is lost")
			os.Exit(exitInterrupted)
		case <-ended:
		}
	}()
	return ctx, func() { signal.Stop(signals); close(ended); cancel() }
}

// app is what the commands share.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	environ        []string

	output string // -o: "text" or "json"
	target target // which running Weir
}

func (a *app) getenv(name string) string {
	for i := len(a.environ) - 1; i >= 0; i-- {
		if v, ok := strings.CutPrefix(a.environ[i], name+"="); ok {
			return v
		}
	}
	return ""
}

// run executes one command line and returns the exit code.
func run(ctx context.Context, a *app, args []string) int {
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	code, text := explain(err)
	if text != "" {
		fmt.Fprintf(a.stderr, "weir: %s\n", text)
	}
	if code == exitUsage {
		var u *usageError
		if errors.As(err, &u) || isCobraUsage(err) {
			fmt.Fprintf(a.stderr, "See '%s --help'.\n", cmd.CommandPath())
		}
	}
	return code
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "weir",
		Short: "A self-hosted, drop-in replacement for AWS IoT Core",
		Long: `Weir takes messages of devices over MQTT and HTTPS, keeps each one on a log before
it acknowledges it, and runs SQL rules over them whose results go to S3, DynamoDB,
webhooks and other topics.

  weir dev --demo     see it work: 20 simulated devices, three rules, a live view
  weir dev            a server for development, on loopback
  weir serve          a server for production

The other commands talk to a running Weir. They find it through its data folder:
--data DIR, WEIR_DATA_DIR, or ./weir-data.

Exit codes: 0 done; 1 failed; 2 wrong usage or configuration; 3 Weir or a port of it
could not be reached; 4 Weir refused the request; 130 interrupted twice.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          arguments(0, 0, ""),
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	pf := root.PersistentFlags()
	pf.StringVarP(&a.output, "output", "o", "text", "output: text or json")
	pf.StringVar(&a.target.data, "data", "", "data folder of Weir (default $WEIR_DATA_DIR or ./weir-data)")
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		if a.output != "text" && a.output != "json" {
			return usagef("-o %s: expected text or json", a.output)
		}
		return nil
	}
	root.AddGroup(
		&cobra.Group{ID: "server", Title: "Server:"},
		&cobra.Group{ID: "device", Title: "As a device:"},
		&cobra.Group{ID: "owner", Title: "As the owner:"})
	for group, cmds := range map[string][]*cobra.Command{
		"server": {a.devCmd(), a.serveCmd(), a.configCmd()},
		"device": {a.pubCmd(), a.subCmd()},
		"owner": {a.envCmd(), a.statusCmd(), a.ruleCmd(), a.tailCmd(), a.explainCmd(), a.shadowCmd(), a.deadCmd(), a.destinationCmd(), a.clientCmd(), a.authzCmd(), a.functionCmd(),
			a.azureCmd(), a.thingCmd(), a.typeCmd(), a.groupCmd(), a.certCmd(), a.caCmd(), a.policyCmd(), a.accessKeyCmd(), a.provisionCmd()},
	} {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	root.AddCommand(a.versionCmd())
	root.InitDefaultCompletionCmd()
	cobra.EnableCommandSorting = false
	return root
}

// usageError is a mistake in the command line itself.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// arguments checks that there are min to max arguments (max -1: any number),
// named as in the usage line.
func arguments(min, max int, names string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) > 0 && cmd.HasSubCommands():
			var known []string
			for _, c := range cmd.Commands() {
				if c.IsAvailableCommand() {
					known = append(known, c.Name())
				}
			}
			hint := ""
			if near, ok := suggest.Nearest(args[0], known); ok {
				hint = fmt.Sprintf("; did you mean %s?", near)
			}
			return usagef("%s has no command %q%s", cmd.CommandPath(), args[0], hint)
		case len(args) < min:
			return usagef("%s needs %s", cmd.CommandPath(), names)
		case max >= 0 && len(args) > max && max == 0:
			return usagef("%s takes no arguments, found %q", cmd.CommandPath(), args[0])
		case max >= 0 && len(args) > max:
			return usagef("%s takes %s, found %d arguments; quote what belongs together", cmd.CommandPath(), names, len(args))
		}
		return nil
	}
}

func isCobraUsage(err error) bool {
	s := err.Error()
	return strings.HasPrefix(s, "unknown command") || strings.HasPrefix(s, "required flag")
}

// exitError carries an exit code of its own; its text may be empty when all has
// been said.
type exitError struct {
	code int
	text string
}

func (e *exitError) Error() string { return e.text }

// explain returns the exit code for err and what the user reads of it.
func explain(err error) (int, string) {
	var exit *exitError
	var usage *usageError
	var bad *config.Error
	var remote *control.RemoteError
	var reason *mqttclient.ReasonError
	var detail control.Detailed
	switch {
	case errors.As(err, &exit):
		return exit.code, exit.text
	case errors.As(err, &usage) || isCobraUsage(err):
		return exitUsage, err.Error()
	case errors.As(err, &bad):
		return exitUsage, config.Detail(err)
	case errors.As(err, &remote):
		text := err.Error()
		if d := remote.Info.Detail; d != "" {
			text = strings.Replace(text, remote.Info.Message, d, 1)
		}
		if remote.Status == 503 {
			return exitFailure, text
		}
		return exitRefused, text
	case errors.As(err, &reason):
		return exitRefused, err.Error()
	case errs.Is(err, errs.Unavailable) || isDial(err):
		return exitUnreachable, errs.Text(err)
	case errors.As(err, &detail):
		return exitFailure, detail.Detail()
	case errors.Is(err, context.Canceled):
		return exitInterrupted, "interrupted"
	}
	var path *fs.PathError
	if errors.As(err, &path) && errors.Is(err, fs.ErrNotExist) {
		return exitFailure, fmt.Sprintf("%s does not exist", path.Path)
	}
	return exitFailure, errs.Text(err)
}

func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}
