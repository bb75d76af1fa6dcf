package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/internal/server"
)

func (a *app) certCmd() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "cert NAME",
		Short: "Make a client certificate for a device",
		Long: `Makes a client certificate of the data folder's own certificate authority, for the TLS
ports: NAME.crt and NAME.key. It needs to read the authority's key, so run it where the data
folder is. Weir does not keep the key.`,
		Example: `  weir cert sensor-7
  weir cert sensor-7 --out certs -o json`,
		Args: arguments(1, 1, "NAME"),
		RunE: func(_ *cobra.Command, args []string) error {
			name := args[0]
			if name == "" || len(name) > 64 || strings.ContainsAny(name, "/\\\x00") || strings.HasPrefix(name, ".") {
				return usagef("%q is no name for a certificate: up to 64 characters, no slashes", name)
			}
			dir := filepath.Join(a.dataDir(), "ca")
			if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
				return &exitError{exitFailure, fmt.Sprintf("%s holds no certificate authority yet: start Weir on it once, or name another with --data", a.dataDir())}
			}
			ca, err := auth.OpenCA(dir, nil, nil)
			if err != nil {
				return err
			}
			cert, key, err := ca.IssueClient(name)
			if err != nil {
				return err
			}
			if err := os.MkdirAll(out, 0o755); err != nil {
				return err
			}
			certFile, keyFile := filepath.Join(out, name+".crt"), filepath.Join(out, name+".key")
			for _, f := range []string{certFile, keyFile} {
				if _, err := os.Lstat(f); err == nil {
					return &exitError{exitFailure, fmt.Sprintf("%s is there already: remove it, or write elsewhere with --out", f)}
				}
			}
			if err := server.WriteClientCertificate(certFile, keyFile, cert, key); err != nil {
				return err
			}
			if a.output == "json" {
				return a.printJSON(map[string]string{"certFile": certFile, "keyFile": keyFile, "caFile": ca.File()})
			}
			fmt.Fprintf(a.stdout, "%s\n%s\n", certFile, keyFile)
			return nil
		},
	}
	c.Flags().StringVar(&out, "out", ".", "folder to write to")
	return c
}
