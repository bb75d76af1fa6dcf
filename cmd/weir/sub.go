package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/internal/mqttclient"
)

func (a *app) subCmd() *cobra.Command {
	var f deviceFlags
	var qos, max int
	var payloadOnly bool
	c := &cobra.Command{
		Use:   "sub FILTER…",
		Short: "Subscribe and print what is delivered, as a device does",
		Long: `Subscribes over MQTT, through the same ports devices use, and prints a line for each
message until it is interrupted. To read what has come in before, use weir tail.`,
		Example: `  weir sub 'alerts/#'
  weir sub -n 1 --payload-only alerts/7
  weir sub -o json 'factory/+/device/+/telemetry' | jq -r .payload`,
		Args: arguments(1, -1, "FILTER…"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if qos != 0 && qos != 1 {
				return usagef("-q %d: expected 0 or 1", qos)
			}
			if max < 0 {
				return usagef("-n: must not be negative")
			}
			var once sync.Once
			enough := make(chan struct{})
			out := bufio.NewWriter(a.stdout)
			n := 0
			var werr error
			client, err := a.connect(cmd.Context(), &f, func(m *mqttclient.Message) {
				if max > 0 && n == max || werr != nil {
					return
				}
				n++
				switch {
				case a.output == "json":
					werr = json.NewEncoder(out).Encode(struct {
						Topic     string `json:"topic"`
						QoS       byte   `json:"qos"`
						Retain    bool   `json:"retain,omitempty"`
						Duplicate bool   `json:"duplicate,omitempty"`
						control.Content
					}{m.Topic, m.QoS, m.Retain, m.Duplicate, control.ContentOf(m.Payload)})
				case payloadOnly:
					out.Write(m.Payload)
					out.WriteByte('\n')
				default:
					fmt.Fprintf(out, "%s  %s\n", printable(m.Topic), contentText(control.ContentOf(m.Payload)))
				}
				if err := out.Flush(); werr == nil {
					werr = err
				}
				if max > 0 && n == max || werr != nil {
					once.Do(func() { close(enough) })
				}
			})
			if err != nil {
				return err
			}
			if err := client.Subscribe(cmd.Context(), byte(qos), args...); err != nil {
				client.Close()
				return err
			}
			if a.output != "json" && !payloadOnly {
				fmt.Fprintf(a.stderr, "subscribed at %s; Ctrl-C ends\n", f.addr)
			}
			var ended error
			select {
			case <-cmd.Context().Done():
			case <-enough:
			case <-client.Done():
				ended = client.Err()
			}
			client.Close()
			if ended != nil {
				return ended
			}
			return werr
		},
	}
	c.Flags().IntVarP(&qos, "qos", "q", 1, "quality of service, 0 or 1")
	c.Flags().IntVarP(&max, "count", "n", 0, "end after `N` messages")
	c.Flags().BoolVarP(&payloadOnly, "payload-only", "p", false, "print payloads only, byte for byte")
	f.add(c)
	return c
}
