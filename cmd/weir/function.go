package main

import (
	"archive/zip"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/functions"
	"github.com/weir-iot/weir/functions/lambdaapi"
	"github.com/weir-iot/weir/functions/sandbox"
)

func (a *app) functionCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "function",
		Short: "Deploy, invoke, list, show and delete functions, and read their logs",
		Long: `A function is code that runs on events: a program for AWS Lambda as it is, a Node.js or Python
handler, a WebAssembly module, a web server, or a function of AWS Lambda. Rules run it with
the action lambda and with aws_lambda() in SQL.`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	a.ownerFlags(c)
	c.AddCommand(a.functionDeployCmd(), a.functionListCmd(), a.functionShowCmd(), a.functionInvokeCmd(), a.functionLogsCmd(), a.functionDeleteCmd(), a.functionIsolationCmd())
	return c
}

func functionPath(name string, more ...string) string {
	return "/weir/v1/functions/" + url.PathEscape(name) + strings.Join(more, "")
}

func (a *app) functionDeployCmd() *cobra.Command {
	var code, isolation, network string
	var env, secrets []string
	var cfg functions.Config
	c := &cobra.Command{
		Use:   "deploy NAME --runtime RUNTIME",
		Short: "Make a function, or a new version of it",
		Long: `Deploys a function. The runtime says what it is:

  provided    a program with the AWS Lambda Runtime API: the file bootstrap in --code, or --command
  nodejs20.x  a Node.js handler, --handler file.function; node must be installed
  python3.12  a Python handler, --handler file.function; python3 must be installed
  wasm        a WebAssembly module with WASI: the event on standard input, the answer on standard output
  http        a web server that gets the event as a POST, --url
  lambda      a function of AWS Lambda, --target

Programs run in a sandbox. The answer says what this machine cannot keep the function from; weir
serve refuses it then, unless --isolation none says that it may.`,
		Example: `  weir function deploy celsius --runtime provided --code build/
  weir function deploy greet --runtime nodejs20.x --handler index.handler --code function.zip
  weir function deploy level --runtime wasm --code main.wasm --timeout 1
  weir function deploy hook --runtime http --url https://hooks.example.com/f
  weir function deploy f --runtime provided --code . --command 'node_modules/.bin/aws-lambda-ric index.handler'`,
		Args: arguments(1, 1, "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			cfg.Isolation, cfg.Network = sandbox.Isolation(isolation), sandbox.Network(network)
			if cfg.Env, err = pairs("--env", env); err != nil {
				return err
			}
			if cfg.Secrets, err = references(secrets); err != nil {
				return err
			}
			q := lambdaapi.Deploy{Config: cfg}
			if command, _ := cmd.Flags().GetString("command"); command != "" {
				q.Config.Command = strings.Fields(command)
			}
			if code != "" {
				if q.Package, err = packed(code); err != nil {
					return err
				}
			}
			body, err := json.Marshal(q)
			if err != nil {
				return err
			}
			var out functions.Deployed
			if err := cl.Call(cmd.Context(), "PUT", functionPath(args[0]), nil, body, &out); err != nil {
				return a.unreachable(err)
			}
			if a.output == "json" {
				return a.printJSON(out)
			}
			fmt.Fprintf(a.stdout, "function %s: %s", printable(out.Function.Name), out.Result)
			if n := len(out.Function.Versions); n > 0 {
				fmt.Fprintf(a.stdout, ", version %d", out.Function.Versions[n-1])
			}
			fmt.Fprintf(a.stdout, "\n%s\n", out.Function.ARN)
			for _, w := range out.Warnings {
				fmt.Fprintf(a.stderr, "weir: warning: %s\n", printable(w))
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Runtime, "runtime", "", "provided, nodejs20.x, python3.12, wasm, http or lambda")
	f.StringVar(&code, "code", "", "zip file, folder or single file (a .wasm module, or a program that becomes bootstrap)")
	f.StringVar(&cfg.Handler, "handler", "", "file.function of a handler, or the module's file of wasm")
	f.String("command", "", "program and arguments instead of bootstrap; a path is relative to the code")
	f.StringVar(&cfg.URL, "url", "", "web server of the runtime http")
	f.StringVar(&cfg.Target, "target", "", "name or ARN of the runtime lambda")
	f.StringVar(&cfg.Description, "description", "", "a sentence for people")
	f.IntVar(&cfg.Timeout, "timeout", 0, "seconds an invocation may take, 1 to 900 (default 3)")
	f.IntVar(&cfg.Memory, "memory", 0, "MiB (default 128)")
	f.IntVar(&cfg.Temp, "tmp", 0, "MiB of /tmp, which count as memory (default 64)")
	f.IntVar(&cfg.Concurrency, "concurrency", 0, "invocations at a time (default 10)")
	f.StringArrayVar(&env, "env", nil, "variable of the function, NAME=VALUE")
	f.StringArrayVar(&secrets, "secret", nil, "variable read when the function starts: NAME=file:/path or NAME=env:VARIABLE of Weir's environment")
	f.StringVar(&isolation, "isolation", "", "full, or none: as Weir's own user, with all it can reach (default full)")
	f.StringVar(&network, "network", "", "none, or host: what this machine reaches (default none)")
	f.StringArrayVar(&cfg.Mounts, "mount", nil, "path of this machine the function can read")
	_ = c.MarkFlagRequired("runtime")
	return c
}

func pairs(flag string, list []string) (map[string]string, error) {
	out := map[string]string{}
	for _, one := range list {
		name, value, ok := strings.Cut(one, "=")
		if !ok || name == "" {
			return nil, usagef("%s %s: expected NAME=VALUE", flag, one)
		}
		out[name] = value
	}
	return out, nil
}

func references(list []string) (map[string]functions.Reference, error) {
	given, err := pairs("--secret", list)
	if err != nil {
		return nil, usagef("--secret: expected NAME=file:/path or NAME=env:VARIABLE")
	}
	out := map[string]functions.Reference{}
	for name, value := range given {
		kind, what, _ := strings.Cut(value, ":")
		switch {
		case kind == "file" && what != "":
			if out[name], err = absolute(what); err != nil {
				return nil, err
			}
		case kind == "env" && what != "":
			out[name] = functions.Reference{Variable: what}
		default:
			// Not the text itself: it may be the secret.
			return nil, usagef("--secret %s: expected %s=file:/path or %s=env:VARIABLE; the value itself is not given", name, name, name)
		}
	}
	return out, nil
}

func absolute(path string) (functions.Reference, error) {
	full, err := filepath.Abs(path)
	return functions.Reference{File: full}, err
}

// packed returns the zip file of a package: as it is, or of a folder or file.
func packed(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.IsDir() && strings.EqualFold(filepath.Ext(path), ".zip") {
		return os.ReadFile(path)
	}
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	add := func(file, name string, mode fs.FileMode) error {
		// No times: the same files are the same package.
		h := &zip.FileHeader{Name: name, Method: zip.Deflate}
		h.SetMode(mode)
		if b.Len() > functions.MaxPackage {
			return fmt.Errorf("%s is more than a package may hold, %d bytes", path, functions.MaxPackage)
		}
		out, err := w.CreateHeader(h)
		if err != nil {
			return err
		}
		if mode&fs.ModeSymlink != 0 {
			to, err := os.Readlink(file)
			if err == nil {
				_, err = io.WriteString(out, to)
			}
			return err
		}
		in, err := os.Open(file)
		if err != nil {
			return err
		}
		defer in.Close()
		_, err = io.Copy(out, in)
		return err
	}
	if st.IsDir() {
		err = filepath.WalkDir(path, func(file string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			name, err := filepath.Rel(path, file)
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			if t := info.Mode().Type(); t != 0 && t != fs.ModeSymlink {
				return fmt.Errorf("%s is neither a file nor a link", file)
			}
			return add(file, filepath.ToSlash(name), info.Mode())
		})
	} else {
		name := "bootstrap"
		if filepath.Ext(path) == ".wasm" {
			name = "main.wasm"
		}
		err = add(path, name, st.Mode()|0o111)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func (a *app) functionListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"},
		Short: "List the functions",
		Args:  arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			var out struct{ Functions []*functions.Function }
			if err := cl.Call(cmd.Context(), "GET", "/weir/v1/functions", nil, nil, &out); err != nil {
				return a.unreachable(err)
			}
			if a.output == "json" {
				return a.printJSON(out.Functions)
			}
			if len(out.Functions) == 0 {
				fmt.Fprintln(a.stdout, "no functions; `weir function deploy` makes one")
				return nil
			}
			w := table(a.stdout)
			fmt.Fprintln(w, "NAME\tRUNTIME\tVERSIONS\tTIMEOUT\tMEMORY\tCHANGED")
			for _, f := range out.Functions {
				fmt.Fprintf(w, "%s\t%s\t%d\t%d s\t%d MiB\t%s\n", printable(f.Name), printable(f.Config.Runtime), len(f.Versions), f.Config.Timeout, f.Config.Memory,
					f.Modified.Local().Format("2006-01-02 15:04:05"))
			}
			return w.Flush()
		},
	}
}

func (a *app) functionShowCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME",
		Short: "Show a function, and the events it failed on to the last try",
		Args:  arguments(1, 1, "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			var out lambdaapi.Shown
			if err := cl.Call(cmd.Context(), "GET", functionPath(args[0]), nil, nil, &out); err != nil {
				return a.unreachable(err)
			}
			return a.printJSON(out)
		},
	}
}

func (a *app) functionInvokeCmd() *cobra.Command {
	var payload string
	var async bool
	c := &cobra.Command{
		Use:   "invoke NAME",
		Short: "Run a function on an event and print its answer",
		Example: `  weir function invoke celsius --payload '{"device":"d1","fahrenheit":212}'
  weir function invoke celsius --payload @event.json
  weir function invoke celsius:2 < event.json`,
		Args: arguments(1, 1, "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			event := []byte(payload)
			switch {
			case payload == "-":
				if event, err = io.ReadAll(a.stdin); err != nil {
					return err
				}
			case strings.HasPrefix(payload, "@"):
				if event, err = os.ReadFile(payload[1:]); err != nil {
					return err
				}
			}
			var out lambdaapi.Invoked
			q := url.Values{"async": {strconv.FormatBool(async)}}
			if err := cl.Call(cmd.Context(), "POST", functionPath(args[0], "/invoke"), q, event, &out); err != nil {
				return a.unreachable(err)
			}
			switch {
			case a.output == "json":
				if err := a.printJSON(out); err != nil {
					return err
				}
			case async:
				fmt.Fprintf(a.stdout, "accepted, request id %s\n", out.ID)
			default:
				for line := range strings.Lines(out.Log) {
					fmt.Fprintln(a.stderr, printable(strings.TrimSuffix(line, "\n")))
				}
				fmt.Fprintln(a.stdout, strings.TrimSuffix(printableLines(string(out.Payload)), "\n"))
			}
			if out.Error != "" {
				return &exitError{exitFailure, "the function failed"}
			}
			return nil
		},
	}
	c.Flags().StringVar(&payload, "payload", "{}", "the event, JSON; @FILE reads a file, - standard input")
	c.Flags().BoolVar(&async, "async", false, "queue the event and do not wait for the answer")
	return c
}

func (a *app) functionLogsCmd() *cobra.Command {
	var follow bool
	var last int
	c := &cobra.Command{
		Use:   "logs NAME",
		Short: "Print what a function wrote, and follow it with -f",
		Long: `Prints the newest lines a function wrote to its standard output and error, and Weir's own of what
failed. The log is kept in memory, 2,000 lines or 512 KiB a function; it begins anew with Weir.`,
		Args: arguments(1, 1, "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			q := url.Values{"follow": {strconv.FormatBool(follow)}}
			if last >= 0 {
				q.Set("last", strconv.Itoa(last))
			}
			resp, err := cl.Do(cmd.Context(), "GET", functionPath(args[0], "/logs"), q, nil)
			if err != nil {
				return a.unreachable(err)
			}
			defer resp.Body.Close()
			return a.printLog(cmd.Context(), resp.Body)
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on with new lines")
	c.Flags().IntVar(&last, "last", 200, "how many lines of before; -1: all")
	return c
}

func (a *app) printLog(ctx context.Context, r io.Reader) error {
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		if a.output == "json" {
			fmt.Fprintf(a.stdout, "%s\n", s.Bytes())
			continue
		}
		var l functions.LogLine
		if err := json.Unmarshal(s.Bytes(), &l); err != nil {
			return fmt.Errorf("a line of the log is not as expected: %w", err)
		}
		id := "-"
		if len(l.Request) >= 8 {
			id = l.Request[:8]
		}
		fmt.Fprintf(a.stdout, "%s %s %s\n", l.Time.Local().Format(time.TimeOnly+".000"), id, printable(l.Text))
	}
	if ctx.Err() != nil {
		return nil
	}
	return s.Err()
}

func (a *app) functionDeleteCmd() *cobra.Command {
	var version string
	c := &cobra.Command{
		Use: "delete NAME", Aliases: []string{"rm"},
		Short: "Delete a function with all its versions, or one version",
		Args:  arguments(1, 1, "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			q := url.Values{}
			if version != "" {
				q.Set("version", version)
			}
			if err := cl.Call(cmd.Context(), "DELETE", functionPath(args[0]), q, nil, nil); err != nil {
				return a.unreachable(err)
			}
			if a.output == "json" {
				return a.printJSON(map[string]string{"function": args[0], "result": "deleted"})
			}
			fmt.Fprintf(a.stdout, "function %s: deleted\n", printable(args[0]))
			return nil
		},
	}
	c.Flags().StringVar(&version, "version", "", "delete this version only")
	return c
}

func (a *app) functionIsolationCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "isolation",
		Short: "Try what this machine can keep a function from",
		Args:  arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			var out lambdaapi.Isolation
			if err := cl.Call(cmd.Context(), "GET", "/weir/v1/function-isolation", nil, nil, &out); err != nil {
				return a.unreachable(err)
			}
			if a.output == "json" {
				return a.printJSON(out)
			}
			w := table(a.stdout)
			fmt.Fprintln(w, "WALL\tSTANDS\tWHAT WAS TRIED")
			for _, f := range out.Findings {
				stands := "no"
				if f.OK {
					stands = "yes"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\n", f.Wall, stands, printable(f.Detail))
			}
			if err := w.Flush(); err != nil {
				return err
			}
			if !out.Isolated() {
				return &exitError{exitFailure, "this machine does not isolate functions"}
			}
			return nil
		},
	}
}
