package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/ingest/azure"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/server"
)

func (a *app) azureCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "azure",
		Short: "Devices that speak the dialect of Azure IoT Hub",
		Long: `Keeps the device registry of the Azure dialect, and does what a back end does with its devices,
by the same REST API that Azure's own clients use.`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	device := &cobra.Command{
		Use: "device", Short: "Create, list, show, change and delete devices", Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	device.AddCommand(a.azureCreateCmd(), a.azureListCmd(), a.azureShowCmd(), a.azureRotateCmd(),
		a.azureStatusCmd("enable", "enabled", "Let a device in again"), a.azureStatusCmd("disable", "disabled", "Shut a device out, and end its connection"), a.azureDeleteCmd())
	c.AddCommand(device, a.azureSASCmd(), a.azureSendCmd(), a.azureFeedbackCmd(), a.azurePurgeCmd(), a.azureTwinCmd(), a.azureMethodCmd(), a.azureQueryCmd())
	return c
}

// azureConnection returns the owner's connection string; its host has no port.
func azureConnection(e *server.Endpoints) (*azure.ConnectionString, error) {
	list, err := server.ReadAzurePolicies(e.AzureFile)
	if err != nil {
		return nil, err
	}
	for _, p := range list {
		if p.Name == azure.Owner {
			return &azure.ConnectionString{Host: "localhost", Policy: p.Name, Key: p.Primary}, nil
		}
	}
	return nil, fmt.Errorf("%s has no policy %s", e.AzureFile, azure.Owner)
}

// azureCall sends a request to the REST API as the owner.
func (a *app) azureCall(ctx context.Context, method, path string, header http.Header, body []byte, out any) error {
	return a.azureDo(ctx, method, path, header, body, out, http.Header{})
}

// azureDo is azureCall, and fills in the headers of the reply.
func (a *app) azureDo(ctx context.Context, method, path string, header http.Header, body []byte, out any, got http.Header) error {
	e, err := a.endpoints()
	if err != nil {
		return err
	}
	if e.HTTPS == "" {
		return usagef("the HTTPS listener is off (listen.https); the Azure API is served there")
	}
	owner, err := azureConnection(e)
	if err != nil {
		return err
	}
	token, err := azure.MakeToken(owner.Host, owner.Policy, owner.Key, time.Now().Add(5*time.Minute))
	if err != nil {
		return err
	}
	pem, err := os.ReadFile(e.CAFile)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	req, err := http.NewRequestWithContext(ctx, method, "https://localhost"+path+"?api-version=2021-04-12", bytes.NewReader(body))
	if err != nil {
		return err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	req.Header.Set("Authorization", token)
	tr := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, e.HTTPS)
		},
	}
	defer tr.CloseIdleConnections()
	res, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return a.unreachable(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 64<<20))
	if err != nil {
		return err
	}
	if res.StatusCode >= 300 {
		var f struct{ Message string }
		if json.Unmarshal(b, &f) != nil || f.Message == "" {
			f.Message = res.Status
		}
		kind := errs.Invalid
		if res.StatusCode == http.StatusNotFound {
			kind = errs.NotFound
		}
		return errs.Errorf("azure", kind, "%s", printable(f.Message))
	}
	maps.Copy(got, res.Header)
	if out == nil || len(b) == 0 {
		return nil
	}
	return json.Unmarshal(b, out)
}

// azureDevice is what the commands show of a device.
type azureDevice struct {
	DeviceID        string `json:"deviceId"`
	ETag            string `json:"etag,omitempty"`
	Status          string `json:"status"`
	ConnectionState string `json:"connectionState"`
	Authentication  struct {
		Type         string `json:"type"`
		SymmetricKey struct {
			PrimaryKey   string `json:"primaryKey"`
			SecondaryKey string `json:"secondaryKey"`
		} `json:"symmetricKey"`
	} `json:"authentication"`
	ConnectionString string `json:"connectionString,omitempty"`
}

func (d *azureDevice) connection() string {
	if d.Authentication.SymmetricKey.PrimaryKey == "" {
		return ""
	}
	return d.connectionBy(d.Authentication.SymmetricKey.PrimaryKey)
}

func (d *azureDevice) connectionBy(key string) string {
	return (&azure.ConnectionString{Host: "localhost", Device: d.DeviceID, Key: key}).String()
}

func newAzureKey() string {
	var b [32]byte
	rand.Read(b[:])
	return base64.StdEncoding.EncodeToString(b[:])
}

func devicePath(id string) string { return "/devices/" + url.PathEscape(id) }

func (a *app) azureCreateCmd() *cobra.Command {
	var thumbprint string
	c := &cobra.Command{
		Use: "create DEVICE", Short: "Create a device and print its connection string", Example: "  weir azure device create d1",
		Args: arguments(1, 1, "DEVICE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			in := map[string]any{"deviceId": args[0]}
			if thumbprint != "" {
				in["authentication"] = map[string]any{"type": "selfSigned", "x509Thumbprint": map[string]string{"primaryThumbprint": thumbprint}}
			}
			body, err := json.Marshal(in)
			if err != nil {
				return err
			}
			var d azureDevice
			if err := a.azureCall(cmd.Context(), "PUT", devicePath(args[0]), nil, body, &d); err != nil {
				return err
			}
			return a.printAzureDevice(&d)
		},
	}
	c.Flags().StringVar(&thumbprint, "thumbprint", "", "SHA-1 or SHA-256 of the device's certificate, instead of keys")
	return c
}

func (a *app) printAzureDevice(d *azureDevice) error {
	d.ConnectionString = d.connection()
	switch {
	case a.output == "json":
		return a.printJSON(d)
	case d.ConnectionString == "":
		fmt.Fprintf(a.stdout, "device %s: %s, %s\n", d.DeviceID, d.Status, d.Authentication.Type)
	default:
		fmt.Fprintln(a.stdout, d.ConnectionString)
	}
	return nil
}

func (a *app) azureListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List devices, at most 1000", Example: "  weir azure device list",
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var list []json.RawMessage
			if err := a.azureCall(cmd.Context(), "GET", "/devices", nil, nil, &list); err != nil {
				return err
			}
			w := table(a.stdout)
			if a.output != "json" {
				fmt.Fprintln(w, "DEVICE\tSTATUS\tCONNECTION\tAUTHENTICATION")
			}
			out := make([]map[string]string, 0, len(list))
			for _, raw := range list {
				var d azureDevice
				if err := json.Unmarshal(raw, &d); err != nil {
					return err
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", d.DeviceID, d.Status, d.ConnectionState, d.Authentication.Type)
				out = append(out, map[string]string{"deviceId": d.DeviceID, "status": d.Status, "connectionState": d.ConnectionState, "authentication": d.Authentication.Type})
			}
			if a.output == "json" {
				return a.printJSON(out)
			}
			return w.Flush()
		},
	}
}

func (a *app) azureShowCmd() *cobra.Command {
	return &cobra.Command{
		Use: "show DEVICE", Short: "Print a device's connection string", Example: "  weir azure device show d1 -o json",
		Args: arguments(1, 1, "DEVICE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var d azureDevice
			if err := a.azureCall(cmd.Context(), "GET", devicePath(args[0]), nil, nil, &d); err != nil {
				return err
			}
			return a.printAzureDevice(&d)
		},
	}
}

func (a *app) azureDeleteCmd() *cobra.Command {
	return &cobra.Command{
		Use: "delete DEVICE", Short: "Delete a device, its modules and its twin", Example: "  weir azure device delete d1",
		Args: arguments(1, 1, "DEVICE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.azureCall(cmd.Context(), "DELETE", devicePath(args[0]), http.Header{"If-Match": {"*"}}, nil, nil); err != nil {
				return err
			}
			return a.did(map[string]string{"deviceId": args[0]}, "device %s: deleted", args[0])
		},
	}
}

func (a *app) azureSASCmd() *cobra.Command {
	var valid time.Duration
	c := &cobra.Command{
		Use: "sas [DEVICE]", Short: "Make a SAS token of a device, or of the hub's owner",
		Example: "  weir azure sas d1 --for 24h\n  curl -H \"Authorization: $(weir azure sas)\" …",
		Args:    arguments(0, 1, "[DEVICE]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if valid < time.Second || valid > 365*24*time.Hour {
				return usagef("--for: expected 1s to 8760h")
			}
			e, err := a.endpoints()
			if err != nil {
				return err
			}
			owner, err := azureConnection(e)
			if err != nil {
				return err
			}
			resource, policy, key := owner.Host, owner.Policy, owner.Key
			if len(args) == 1 {
				var d azureDevice
				if err := a.azureCall(cmd.Context(), "GET", devicePath(args[0]), nil, nil, &d); err != nil {
					return err
				}
				if key = d.Authentication.SymmetricKey.PrimaryKey; key == "" {
					return usagef("the device %s has no key: it shows a certificate", args[0])
				}
				resource, policy = owner.Host+"/devices/"+args[0], ""
			}
			token, err := azure.MakeToken(resource, policy, key, time.Now().Add(valid))
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.printJSON(map[string]string{"sas": token})
			}
			fmt.Fprintln(a.stdout, token)
			return nil
		},
	}
	c.Flags().DurationVar(&valid, "for", time.Hour, "how long it is valid")
	return c
}

func (a *app) azureSendCmd() *cobra.Command {
	var properties []string
	var ack, id string
	var expiry time.Duration
	c := &cobra.Command{
		Use: "send DEVICE [MESSAGE]", Short: "Send a message to a device", Long: `Sends a message to a device: it waits in the device's queue until the device has acknowledged it, or it
has expired. Without MESSAGE it is read from standard input.`,
		Example: "  weir azure send d1 'hello' --property level=3",
		Args:    arguments(1, 2, "DEVICE [MESSAGE]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			header := http.Header{}
			for _, p := range properties {
				k, v, ok := strings.Cut(p, "=")
				if !ok || k == "" {
					return usagef("--property: expected NAME=VALUE, found %q", p)
				}
				header.Set("iothub-app-"+k, v)
			}
			if ack != "" {
				header.Set("iothub-ack", ack)
			}
			if id != "" {
				header.Set("iothub-messageid", id)
			}
			if expiry != 0 {
				header.Set("iothub-expiry", time.Now().Add(expiry).UTC().Format(time.RFC3339Nano))
			}
			body := []byte(strings.Join(args[1:], ""))
			if len(args) == 1 {
				var err error
				if body, err = io.ReadAll(io.LimitReader(a.stdin, maxPayload)); err != nil {
					return err
				}
			}
			if err := a.azureCall(cmd.Context(), "POST", devicePath(args[0])+"/messages/devicebound", header, body, nil); err != nil {
				return err
			}
			return a.did(map[string]string{"deviceId": args[0]}, "sent to %s", args[0])
		},
	}
	c.Flags().StringArrayVar(&properties, "property", nil, "NAME=VALUE, may be repeated")
	c.Flags().StringVar(&id, "id", "", "of the message, which its feedback has; made up where it is left out")
	c.Flags().DurationVar(&expiry, "expiry", 0, "how long it is worth being delivered, up to 24h (default 1h)")
	c.Flags().StringVar(&ack, "ack", "", "feedback wanted: none, positive, negative or full")
	return c
}
