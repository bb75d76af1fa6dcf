package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/internal/mqttclient"
)

// maxPayload bounds what pub reads from a file or standard input.
const maxPayload = 8 << 20

func (a *app) pubCmd() *cobra.Command {
	var f deviceFlags
	var file string
	var lines, retain, https bool
	var qos int
	c := &cobra.Command{
		Use:   "pub TOPIC [PAYLOAD]",
		Short: "Publish messages, as a device does",
		Long: `Publishes over MQTT, or over HTTPS with --https, through the same ports devices use. At
QoS 1, the default, it returns once Weir has acknowledged: the message is on the log.
Without a payload, standard input is the payload; with --lines each line is a message.`,
		Example: `  weir pub factory/1/device/7/telemetry '{"temperature": 41.5, "status": "ok"}'
  weir pub --https factory/1/device/7/telemetry '{"temperature": 41.5, "status": "ok"}'
  weir pub -f message.json factory/1/device/7/telemetry
  tail -f readings.ndjson | weir pub --lines factory/1/device/7/telemetry`,
		Args: arguments(1, 2, "TOPIC [PAYLOAD]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if qos != 0 && qos != 1 {
				return usagef("-q %d: expected 0 or 1", qos)
			}
			if len(args) == 2 && (file != "" || lines) {
				return usagef("the payload is there twice: as an argument and by --file or --lines")
			}
			if https && retain {
				return usagef("--retain: HTTPS publishes are not retained; use MQTT")
			}
			in := a.stdin
			if file != "" && file != "-" {
				r, err := os.Open(file)
				if err != nil {
					return err
				}
				defer r.Close()
				in = r
			}
			var messages func(func([]byte) error) error
			switch {
			case len(args) == 2:
				messages = func(fn func([]byte) error) error { return fn([]byte(args[1])) }
			case lines:
				messages = func(fn func([]byte) error) error { return eachLine(in, fn) }
			default:
				messages = func(fn func([]byte) error) error {
					b, err := io.ReadAll(io.LimitReader(in, maxPayload+1))
					if err != nil {
						return err
					}
					if len(b) > maxPayload {
						return fmt.Errorf("the payload has more than %d bytes", maxPayload)
					}
					return fn(b)
				}
			}
			var n int
			var err error
			if https {
				n, err = a.pubHTTPS(cmd.Context(), &f, args[0], qos, messages)
			} else {
				n, err = a.pubMQTT(cmd.Context(), &f, &mqttclient.Message{Topic: args[0], QoS: byte(qos), Retain: retain}, messages)
			}
			if a.output == "json" {
				result := map[string]any{"topic": args[0], "qos": qos, "published": n}
				if err != nil {
					_, text := explain(err)
					result["error"] = text
				}
				if e := a.printJSON(result); e != nil {
					return e
				}
			}
			if err != nil && n > 0 {
				code, text := explain(err)
				return &exitError{code, fmt.Sprintf("%s after %s", text, plural(n, "message", "messages"))}
			}
			return err
		},
	}
	c.Flags().StringVarP(&file, "file", "f", "", "read the payload from this file (-: standard input)")
	c.Flags().BoolVar(&lines, "lines", false, "publish each line as a message of its own")
	c.Flags().IntVarP(&qos, "qos", "q", 1, "quality of service, 0 or 1")
	c.Flags().BoolVarP(&retain, "retain", "r", false, "keep the message for those who subscribe later")
	c.Flags().BoolVar(&https, "https", false, "publish over HTTPS instead of MQTT")
	f.add(c)
	return c
}

func eachLine(r io.Reader, fn func([]byte) error) error {
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxPayload)
	for s.Scan() {
		if err := fn(bytes.Clone(s.Bytes())); err != nil {
			return err
		}
	}
	if errors.Is(s.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("a line has more than %d bytes", maxPayload)
	}
	return s.Err()
}

// pubMQTT publishes with many messages in flight and returns how many have been
// acknowledged (QoS 0: written).
func (a *app) pubMQTT(ctx context.Context, f *deviceFlags, m *mqttclient.Message, messages func(func([]byte) error) error) (int, error) {
	c, err := a.connect(ctx, f, nil)
	if err != nil {
		return 0, err
	}
	var mu sync.Mutex
	var acked int
	var first error
	var open sync.WaitGroup
	err = messages(func(payload []byte) error {
		mu.Lock()
		refused := first
		mu.Unlock()
		if refused != nil {
			return refused
		}
		one := *m
		one.Payload = payload
		if m.QoS > 0 {
			open.Add(1)
		}
		err := c.PublishAsync(ctx, &one, func(err error) {
			mu.Lock()
			if err == nil {
				acked++
			} else if first == nil {
				first = err
			}
			mu.Unlock()
			open.Done()
		})
		switch {
		case err != nil && m.QoS > 0:
			open.Done()
		case err == nil && m.QoS == 0:
			acked++
		}
		return err
	})
	answered := make(chan struct{})
	go func() { open.Wait(); close(answered) }()
	select {
	case <-answered:
	case <-ctx.Done():
	case <-time.After(f.timeout):
		err = errors.Join(err, fmt.Errorf("no acknowledgement within %s: whether the last messages were stored is not known", f.timeout))
	}
	c.Close() // answers what is open with an error
	<-answered
	mu.Lock()
	defer mu.Unlock()
	if err == nil {
		err = first
	}
	return acked, err
}

// pubHTTPS publishes one request a message and returns how many were accepted.
func (a *app) pubHTTPS(ctx context.Context, f *deviceFlags, topic string, qos int, messages func(func([]byte) error) error) (int, error) {
	if f.addr == "" && a.target.data == "" && a.getenv("WEIR_HTTPS_PORT") != "" {
		f.addr = net.JoinHostPort(a.getenv("WEIR_HOST"), a.getenv("WEIR_HTTPS_PORT"))
		for into, name := range map[*string]string{&f.files.ca: "WEIR_CA_FILE", &f.files.cert: "WEIR_CERT_FILE", &f.files.key: "WEIR_KEY_FILE"} {
			if *into == "" {
				*into = a.getenv(name)
			}
		}
	}
	if f.addr == "" {
		e, err := a.endpoints()
		if err != nil {
			return 0, err
		}
		if e.HTTPS == "" {
			return 0, &exitError{exitUnreachable, "the running Weir has no HTTPS port: set listen.https"}
		}
		f.addr = e.HTTPS
		f.fill(e)
	}
	cfg, err := f.tlsConfig()
	if err != nil {
		return 0, err
	}
	addr := f.addr
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return 0, usagef("--addr %s: expected host:port", addr)
	}
	client := &http.Client{Timeout: f.timeout, Transport: &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, addr)
		}}}
	defer client.CloseIdleConnections()
	levels := strings.Split(topic, "/")
	for i := range levels {
		levels[i] = url.PathEscape(levels[i])
	}
	target := "https://" + net.JoinHostPort(cfg.ServerName, port) + "/topics/" + strings.Join(levels, "/") + "?qos=" + strconv.Itoa(qos)
	n := 0
	err = messages(func(payload []byte) error {
		req, err := http.NewRequestWithContext(ctx, "POST", target, bytes.NewReader(payload))
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			if isDial(err) {
				return &exitError{exitUnreachable, fmt.Sprintf("nothing answers at %s", addr)}
			}
			return err
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		if resp.StatusCode != http.StatusOK {
			return refusedHTTP(resp.Status, body)
		}
		n++
		return nil
	})
	return n, err
}

// refusedHTTP is the error of an answer other than 200.
func refusedHTTP(status string, body []byte) error {
	text := string(body)
	var m struct {
		Message string
		Error   control.ErrorInfo
	}
	if json.Unmarshal(body, &m) == nil && m.Message != "" {
		text = m.Message
	}
	return &exitError{exitRefused, fmt.Sprintf("the server refused the publish: %s: %s", status, printable(strings.TrimSpace(text)))}
}
