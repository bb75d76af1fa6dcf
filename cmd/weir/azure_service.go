package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/internal/errs"
)

// azureReply is the headers of a reply and its body.
type azureReply struct {
	header http.Header
	body   json.RawMessage
}

// azureAsk is azureCall for replies whose headers matter.
func (a *app) azureAsk(ctx context.Context, method, path string, header http.Header, body []byte) (r azureReply, err error) {
	r.header = http.Header{}
	return r, a.azureDo(ctx, method, path, header, body, &r.body, r.header)
}

func twinPath(id string) string {
	device, module, of := strings.Cut(id, "/")
	path := "/twins/" + url.PathEscape(device)
	if of {
		path += "/modules/" + url.PathEscape(module)
	}
	return path
}

// azureRotateCmd regenerates a key.
func (a *app) azureRotateCmd() *cobra.Command {
	var key string
	c := &cobra.Command{
		Use: "rotate DEVICE", Short: "Replace a key of a device and print its connection string",
		Long: `Replaces a key of a device by a new one. Connections that were made with the old key end.
To rotate without a break, replace the secondary key, give it to the device, then replace
the primary one; "both" cuts the device off at once, "swap" makes each the other.`,
		Example: "  weir azure device rotate d1 --key secondary",
		Args:    arguments(1, 1, "DEVICE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var d azureDevice
			if err := a.azureCall(cmd.Context(), "GET", devicePath(args[0]), nil, nil, &d); err != nil {
				return err
			}
			keys := &d.Authentication.SymmetricKey
			if keys.PrimaryKey == "" {
				return usagef("the device %s has no key: it shows a certificate", args[0])
			}
			switch key {
			case "primary":
				keys.PrimaryKey = newAzureKey()
			case "secondary":
				keys.SecondaryKey = newAzureKey()
			case "both":
				keys.PrimaryKey, keys.SecondaryKey = newAzureKey(), newAzureKey()
			case "swap":
				keys.PrimaryKey, keys.SecondaryKey = keys.SecondaryKey, keys.PrimaryKey
			default:
				return usagef("--key: expected primary, secondary, both or swap, found %q", key)
			}
			if err := a.azureUpdate(cmd.Context(), &d, map[string]any{"authentication": map[string]any{"symmetricKey": keys}}); err != nil {
				return err
			}
			if key == "secondary" && a.output != "json" {
				fmt.Fprintln(a.stdout, d.connectionBy(keys.SecondaryKey))
				return nil
			}
			return a.printAzureDevice(&d)
		},
	}
	c.Flags().StringVar(&key, "key", "secondary", "primary, secondary, both or swap")
	return c
}

// azureUpdate changes a device that nobody has changed since d was read; d
// becomes the new one.
func (a *app) azureUpdate(ctx context.Context, d *azureDevice, change map[string]any) error {
	change["deviceId"] = d.DeviceID
	body, err := json.Marshal(change)
	if err != nil {
		return err
	}
	return a.azureCall(ctx, "PUT", devicePath(d.DeviceID), http.Header{"If-Match": {`"` + d.ETag + `"`}}, body, d)
}

// azureStatusCmd enables or disables a device.
func (a *app) azureStatusCmd(verb, status, short string) *cobra.Command {
	return &cobra.Command{
		Use: verb + " DEVICE", Short: short, Example: "  weir azure device " + verb + " d1",
		Args: arguments(1, 1, "DEVICE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var d azureDevice
			if err := a.azureCall(cmd.Context(), "GET", devicePath(args[0]), nil, nil, &d); err != nil {
				return err
			}
			if err := a.azureUpdate(cmd.Context(), &d, map[string]any{"status": status}); err != nil {
				return err
			}
			return a.did(map[string]string{"deviceId": args[0], "status": status}, "device %s: %s", args[0], status)
		},
	}
}

func (a *app) azureTwinCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "twin", Short: "Show and change the twin of a device, or of a module", Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	get := &cobra.Command{
		Use: "get DEVICE[/MODULE]", Short: "Print a twin", Example: "  weir azure twin get d1",
		Args: arguments(1, 1, "DEVICE[/MODULE]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.printAzure(a.azureAsk(cmd.Context(), "GET", twinPath(args[0]), nil, nil))
		},
	}
	var etag string
	patch := &cobra.Command{
		Use: "patch DEVICE[/MODULE] [PATCH]", Short: "Change tags and desired properties of a twin; null removes",
		Long:    "Changes tags and desired properties of a twin; null removes. Without PATCH it is read from standard input.",
		Example: `  weir azure twin patch d1 '{"tags":{"site":"north"},"properties":{"desired":{"interval":5}}}'`,
		Args:    arguments(1, 2, "DEVICE[/MODULE] [PATCH]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			body, err := a.azureBody(args[1:])
			if err != nil {
				return err
			}
			return a.printAzure(a.azureAsk(cmd.Context(), "PATCH", twinPath(args[0]), http.Header{"If-Match": {etag}}, body))
		},
	}
	patch.Flags().StringVar(&etag, "etag", "*", "of the version that is to be changed; *: any")
	c.AddCommand(get, patch)
	return c
}

func (a *app) azureMethodCmd() *cobra.Command {
	var response, connect time.Duration
	c := &cobra.Command{
		Use: "method DEVICE[/MODULE] METHOD [PAYLOAD]", Short: "Call a direct method of a device and print its answer",
		Example: `  weir azure method d1 reboot '{"in":3}' --timeout 10s`,
		Args:    arguments(2, 3, "DEVICE[/MODULE] METHOD [PAYLOAD]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			payload := json.RawMessage("null")
			if len(args) == 3 {
				if payload = json.RawMessage(args[2]); !json.Valid(payload) {
					return usagef("PAYLOAD is not JSON: %s", args[2])
				}
			}
			body, err := json.Marshal(map[string]any{
				"methodName": args[1], "payload": payload,
				"responseTimeoutInSeconds": int(response / time.Second), "connectTimeoutInSeconds": int(connect / time.Second),
			})
			if err != nil {
				return err
			}
			return a.printAzure(a.azureAsk(cmd.Context(), "POST", twinPath(args[0])+"/methods", nil, body))
		},
	}
	c.Flags().DurationVar(&response, "timeout", 30*time.Second, "how long to wait for the answer, 5s to 300s")
	c.Flags().DurationVar(&connect, "connect-timeout", 0, "how long to wait for the device to connect, up to 300s")
	return c
}

func (a *app) azureQueryCmd() *cobra.Command {
	return &cobra.Command{
		Use: "query QUERY", Short: "Ask devices and twins in the IoT Hub query language, all pages",
		Example: `  weir azure query "SELECT deviceId, tags.site FROM devices WHERE connectionState = 'Connected'"`,
		Args:    arguments(1, 1, "QUERY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			body, err := json.Marshal(map[string]string{"query": args[0]})
			if err != nil {
				return err
			}
			all, header := []json.RawMessage{}, http.Header{}
			for {
				r, err := a.azureAsk(cmd.Context(), "POST", "/devices/query", header, body)
				if err != nil {
					return err
				}
				var page []json.RawMessage
				if err := json.Unmarshal(r.body, &page); err != nil {
					return err
				}
				all = append(all, page...)
				next := r.header.Get("x-ms-continuation")
				if next == "" {
					return a.printJSON(all)
				}
				header.Set("x-ms-continuation", next)
			}
		},
	}
}

func (a *app) azureFeedbackCmd() *cobra.Command {
	var keep bool
	c := &cobra.Command{
		Use: "feedback", Short: "Receive what became of messages to devices that asked for it, up to 64", Example: "  weir azure feedback",
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			const path = "/messages/serviceBound/feedback"
			r, err := a.azureAsk(cmd.Context(), "GET", path, nil, nil)
			if err != nil {
				return err
			}
			if len(r.body) == 0 {
				r.body = json.RawMessage("[]")
			}
			if err := a.printAzure(r, nil); err != nil {
				return err
			}
			lock := path + "/" + url.PathEscape(strings.Trim(r.header.Get("ETag"), `"`))
			switch {
			case r.header.Get("ETag") == "":
				return nil
			case keep:
				return a.azureCall(cmd.Context(), "POST", lock+"/abandon", nil, nil, nil)
			}
			return a.azureCall(cmd.Context(), "DELETE", lock, nil, nil, nil)
		},
	}
	c.Flags().BoolVar(&keep, "keep", false, "leave it for the next one who asks")
	return c
}

func (a *app) azurePurgeCmd() *cobra.Command {
	return &cobra.Command{
		Use: "purge DEVICE", Short: "Drop the messages that wait for a device", Example: "  weir azure purge d1",
		Args: arguments(1, 1, "DEVICE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var out struct {
				Purged int `json:"totalMessagesPurged"`
			}
			if err := a.azureCall(cmd.Context(), "DELETE", devicePath(args[0])+"/commands", nil, nil, &out); err != nil {
				return err
			}
			return a.did(map[string]any{"deviceId": args[0], "purged": out.Purged}, "device %s: %d dropped", args[0], out.Purged)
		},
	}
}

// azureBody is an argument, or standard input where there is none.
func (a *app) azureBody(args []string) ([]byte, error) {
	if len(args) > 0 {
		return []byte(args[0]), nil
	}
	return io.ReadAll(io.LimitReader(a.stdin, maxPayload))
}

// printAzure prints a reply's JSON, indented.
func (a *app) printAzure(r azureReply, err error) error {
	if err != nil {
		return err
	}
	var v any
	if err := json.Unmarshal(r.body, &v); err != nil {
		return errs.Errorf("azure", errs.Internal, "the reply is not JSON")
	}
	return a.printJSON(v)
}
