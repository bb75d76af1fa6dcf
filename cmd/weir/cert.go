package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/control"
)

func (a *app) certCmd() *cobra.Command {
	var q control.ListRequest
	status := func(verb, status string) *cobra.Command {
		return verbCmd(verb+" ID", "Set a certificate "+status, "weir cert "+verb+" 3f9c…",
			a.act("cert.status", func(args []string) any { return control.Named{Name: args[0], Status: status} }, "certificate %s: "+status))
	}
	var force bool
	remove := verbCmd("delete ID", "Delete a certificate that is not ACTIVE and not attached", "weir cert delete 3f9c… --force",
		a.act("cert.delete", func(args []string) any { return control.Named{Name: args[0], Force: force} }, "certificate %s: deleted"))
	remove.Flags().BoolVar(&force, "force", false, "also where policies are attached")
	return a.nounCmd("cert", "Make, register, list, show, revoke and delete certificates of devices", "A device proves who it is by its certificate. Weir knows it by its fingerprint; its status and\nthe policies attached to it decide what the device may.",
		a.certCreateCmd(), a.certRegisterCmd(),
		pages(verbCmd("list", "List certificates, the newest first", "weir cert list", listOf(a, "cert.list", "no certificates; `weir cert create` makes one", "ID\tSTATUS\tUNTIL\tSUBJECT", &q, certRow)), &q),
		verbCmd("show ID", "Show a certificate, its things and policies", "weir cert show 3f9c…", a.showCert("cert.show")),
		status("activate", "ACTIVE"), status("deactivate", "INACTIVE"), status("revoke", "REVOKED"), remove)
}

func certRow(c control.Certificate) []string {
	return []string{c.ID, c.Status, c.NotAfter.Local().Format("2006-01-02"), c.Subject}
}

func (a *app) showCert(operation string) func(context.Context, []string) error {
	return func(ctx context.Context, args []string) error {
		var c control.Certificate
		if err := a.call(ctx, operation, control.Named{Name: args[0]}, &c); err != nil {
			return err
		}
		if a.output == "json" {
			return a.printJSON(c)
		}
		if err := a.fields([2]string{"certificate", c.ID}, [2]string{"arn", c.ARN}, [2]string{"status", c.Status}, [2]string{"mode", c.Mode}, [2]string{"subject", c.Subject},
			[2]string{"ca", c.CA}, [2]string{"valid", when(c.NotBefore) + " to " + when(c.NotAfter)}, [2]string{"created", when(c.CreatedAt)},
			[2]string{"things", strings.Join(c.Things, " ")}, [2]string{"policies", strings.Join(c.Policies, " ")}); err != nil {
			return err
		}
		fmt.Fprint(a.stdout, "\n", c.PEM)
		return nil
	}
}

// deviceFiles are what `weir cert create` writes.
type deviceFiles struct {
	Certificate control.Certificate `json:"certificate"`
	Dir         string              `json:"dir"`
	CertFile    string              `json:"certFile"`
	KeyFile     string              `json:"keyFile"`
	CAFile      string              `json:"caFile"`
	Connect     string              `json:"connectFile"`
}

func (a *app) certCreateCmd() *cobra.Command {
	var in control.CreateCertificate
	var dir, keyType, name string
	c := &cobra.Command{
		Use: "create", Short: "Make a certificate for a device, with all it needs to connect", Args: arguments(0, 0, ""),
		Long: `Makes a key and a certificate of Weir's own authority for it, and writes a folder a device can
be given: certificate.pem, private.key (mode 0600), ca.pem, and connect.sh, which connects and
publishes with mosquitto_pub. The key is made here and sent nowhere.

With --thing the certificate is attached to that thing, which is made where it does not exist;
with --policy, policies are attached to the certificate. All of it is done, or nothing.`,
		Example: `  weir policy create device
  weir cert create --thing pump-7 --policy device -o pump-7
  pump-7/connect.sh`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := dir
			switch dir {
			case "json":
				a.output, out = "json", ""
			case "text":
				out = ""
			}
			if out == "" {
				if out = in.Thing; out == "" {
					return usagef("name the folder to write to with -o")
				}
				if strings.ContainsAny(out, "/\\") || strings.HasPrefix(out, ".") {
					return usagef("name the folder to write to with -o")
				}
			}
			files, err := a.createCert(cmd.Context(), in, out, keyType, name)
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.printJSON(files)
			}
			for _, p := range in.Policies {
				fmt.Fprintf(a.stdout, "policy %s: attached\n", printable(p))
			}
			if in.Thing != "" {
				what := "attached"
				if files.Certificate.Made != "" {
					what = "created and attached"
				}
				fmt.Fprintf(a.stdout, "thing %s: %s\n", printable(in.Thing), what)
			}
			fmt.Fprintf(a.stdout, "certificate %s: %s\n", files.Certificate.ID, files.Certificate.Status)
			if len(in.Policies) == 0 {
				fmt.Fprintln(a.stdout, "no policy is attached: the device may do nothing yet; see `weir policy create` and `weir policy attach`")
			}
			fmt.Fprintf(a.stdout, "%s\n", files.Connect)
			return nil
		},
	}
	fl := c.Flags()
	fl.StringVarP(&dir, "output", "o", "", "folder to write to (default: named like the thing); json: print what was made as JSON")
	fl.StringVar(&in.Thing, "thing", "", "thing to attach the certificate to")
	fl.StringArrayVar(&in.Policies, "policy", nil, "policy to attach, may be repeated")
	fl.StringVar(&keyType, "key", "ecdsa", "kind of key: ecdsa (P-256) or rsa (2,048 bits)")
	fl.StringVar(&name, "name", "", "common name of the certificate (default: the thing); it decides nothing")
	fl.BoolVar(&in.Inactive, "inactive", false, "do not activate the certificate yet")
	return c
}

func (a *app) createCert(ctx context.Context, in control.CreateCertificate, dir, keyType, name string) (*deviceFiles, error) {
	f := &deviceFiles{Dir: dir, CertFile: filepath.Join(dir, "certificate.pem"), KeyFile: filepath.Join(dir, "private.key"),
		CAFile: filepath.Join(dir, "ca.pem"), Connect: filepath.Join(dir, "connect.sh")}
	for _, file := range []string{f.CertFile, f.KeyFile, f.CAFile, f.Connect} {
		if _, err := os.Lstat(file); err == nil {
			return nil, &exitError{exitFailure, fmt.Sprintf("%s is there already: remove it, or name another folder with -o", file)}
		}
	}
	key, keyPEM, err := newKey(keyType)
	if err != nil {
		return nil, err
	}
	if name == "" {
		name = in.Thing
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	if err != nil {
		return nil, err
	}
	in.CSR = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}))
	// The key is on disk before there is a certificate that needs it.
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := writeNew(f.KeyFile, keyPEM, 0o600); err != nil {
		return nil, err
	}
	if err := a.call(ctx, "cert.create", in, &f.Certificate); err != nil {
		err = errors.Join(err, os.Remove(f.KeyFile))
		_ = os.Remove(dir) // where it is empty, as it was made above
		return nil, err
	}
	return f, errors.Join(
		writeNew(f.CertFile, []byte(f.Certificate.PEM), 0o644),
		writeNew(f.CAFile, []byte(f.Certificate.CAPEM), 0o644),
		writeNew(f.Connect, []byte(a.connectScript(in.Thing, f.Certificate.ID)), 0o755))
}

func newKey(kind string) (crypto.Signer, []byte, error) {
	var key crypto.Signer
	var err error
	switch kind {
	case "ecdsa":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "rsa":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	default:
		return nil, nil, usagef("--key %s: expected ecdsa or rsa", kind)
	}
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// writeNew writes a file that must not exist.
func writeNew(name string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// connectScript returns a shell script that connects as the device does.
func (a *app) connectScript(thing, id string) string {
	client := thing
	if client == "" {
		client = "device-" + id[:8]
	}
	port := "8883"
	if e, err := a.endpoints(); err == nil && e.MQTTS != "" {
		port = portOf(e.MQTTS)
	}
	return fmt.Sprintf(`#!/bin/sh
# Connects to Weir as %[1]s and publishes one message. Needs mosquitto_pub (Debian:
# mosquitto-clients). Host and port can be given: ./connect.sh weir.example.com 8883
set -e
cd "$(dirname "$0")"
exec mosquitto_pub -h "${1:-localhost}" -p "${2:-%[2]s}" --cafile ca.pem --cert certificate.pem --key private.key \
  -i '%[1]s' -q 1 -t '%[1]s/hello' -m '{"hello": "from %[1]s"}' -d
`, client, port)
}

func (a *app) certRegisterCmd() *cobra.Command {
	var caFile string
	var in control.RegisterCertificate
	c := verbCmd("register FILE", "Register a certificate that was made elsewhere", "weir cert register device.pem --active\nweir cert register device.pem --without-ca --active",
		func(ctx context.Context, args []string) (err error) {
			if in.PEM, err = a.readText(args[0]); err != nil {
				return err
			}
			if caFile != "" {
				if in.CA, err = a.readText(caFile); err != nil {
					return err
				}
			}
			var out control.Certificate
			if err := a.call(ctx, "cert.register", in, &out); err != nil {
				return err
			}
			return a.did(out, "certificate %s: registered, %s", out.ID, out.Status)
		})
	c.Flags().StringVar(&caFile, "ca", "", "the registered CA certificate that signed it (default: looked for)")
	c.Flags().BoolVar(&in.WithoutCA, "without-ca", false, "its CA is not registered")
	c.Flags().BoolVar(&in.Active, "active", false, "let it connect at once")
	return c
}

func (a *app) caCmd() *cobra.Command {
	var in control.RegisterCertificate
	var verification string
	register := verbCmd("register FILE", "Register a CA of your own", "weir ca register ca.pem --verify verification.pem --active\nweir ca register ca.pem --sni-only --active --auto",
		func(ctx context.Context, args []string) (err error) {
			if in.PEM, err = a.readText(args[0]); err != nil {
				return err
			}
			if verification != "" {
				if in.Verification, err = a.readText(verification); err != nil {
					return err
				}
			}
			var out control.Certificate
			if err := a.call(ctx, "ca.register", in, &out); err != nil {
				return err
			}
			return a.did(out, "CA certificate %s: registered, %s", out.ID, out.Status)
		})
	register.Flags().StringVar(&verification, "verify", "", "certificate signed by the CA whose common name is the registration code (`weir ca code`)")
	register.Flags().BoolVar(&in.SNIOnly, "sni-only", false, "register it without verification certificate")
	register.Flags().BoolVar(&in.Active, "active", false, "let its certificates be registered at once")
	register.Flags().BoolVar(&in.AutoRegistration, "auto", false, "register its certificates at their first connection")
	var q control.ListRequest
	status := func(verb, status string) *cobra.Command {
		return verbCmd(verb+" ID", "Set a CA "+status, "weir ca "+verb+" 3f9c…",
			a.act("ca.status", func(args []string) any { return control.Named{Name: args[0], Status: status} }, "CA certificate %s: "+status))
	}
	return a.nounCmd("ca", "Register, list, show and delete certificate authorities of your own", "Certificates a registered authority has signed can be registered, by hand or at their first\nconnection.",
		verbCmd("code", "Print the registration code, for the verification certificate", "weir ca code", func(ctx context.Context, _ []string) error {
			var out map[string]string
			if err := a.call(ctx, "ca.code", struct{}{}, &out); err != nil {
				return err
			}
			return a.did(out, "%s", out["registrationCode"])
		}),
		register,
		pages(verbCmd("list", "List CAs, the newest first", "weir ca list", listOf(a, "ca.list", "no CAs of yours; Weir's own is always there", "ID\tSTATUS\tUNTIL\tSUBJECT", &q, certRow)), &q),
		verbCmd("show ID", "Show a CA", "weir ca show 3f9c…", a.showCert("ca.show")),
		status("activate", "ACTIVE"), status("deactivate", "INACTIVE"),
		verbCmd("delete ID", "Delete a CA that is INACTIVE; its certificates stay", "weir ca delete 3f9c…", a.act("ca.delete", named, "CA certificate %s: deleted")))
}
