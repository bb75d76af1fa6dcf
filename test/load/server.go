package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// own starts a Weir of its own for the measurement, durability as asked, in a
// temporary folder, and sets where it is and what a device needs to get in. The
// caller calls stop.
func (s *settings) own() (stop func(), err error) {
	dir, err := os.MkdirTemp("", "weir-load-")
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "data")
	cmd := exec.Command(s.weir, "dev", "--data", data, "--ports", "0")
	cmd.Env = append(os.Environ(), "WEIR_DURABILITY="+s.durability, "WEIR_DEBUG_PPROF=true")
	out, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	stop = func() {
		cmd.Process.Signal(os.Interrupt)
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			cmd.Process.Kill()
			<-ended
		}
		out.Close()
		os.RemoveAll(dir)
	}
	s.pid = cmd.Process.Pid
	if err := s.findOwn(dir, data, ended); err != nil {
		text, _ := os.ReadFile(out.Name())
		stop()
		return nil, fmt.Errorf("%w\n%s", err, text)
	}
	return stop, nil
}

func (s *settings) findOwn(dir, data string, ended <-chan struct{}) error {
	run := func(args ...string) ([]byte, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		var errText bytes.Buffer
		c := exec.CommandContext(ctx, s.weir, append(args, "--data", data)...)
		c.Stderr = &errText
		b, err := c.Output()
		if err != nil {
			err = fmt.Errorf("weir %v: %w: %s", args, err, errText.Bytes())
		}
		return b, err
	}
	var env struct {
		Host  string `json:"WEIR_HOST"`
		Plain string `json:"WEIR_MQTT_PORT"`
		TLS   string `json:"WEIR_MQTTS_PORT"`
		CA    string `json:"WEIR_CA_FILE"`
		API   string `json:"WEIR_API_URL"`
	}
	for {
		b, err := run("env", "-o", "json")
		if err == nil {
			if err = json.Unmarshal(b, &env); err == nil {
				_, err = run("status")
			}
		}
		if err == nil {
			break
		}
		select {
		case <-ended:
			return fmt.Errorf("weir has ended")
		case <-time.After(200 * time.Millisecond):
		}
	}
	s.addr, s.tlsAddr, s.ca, s.api = "127.0.0.1:"+env.Plain, "127.0.0.1:"+env.TLS, env.CA, env.API
	s.token = filepath.Join(data, "admin.token")
	policy := filepath.Join(dir, "policy.json")
	allowAll := `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]}`
	if err := os.WriteFile(policy, []byte(allowAll), 0o600); err != nil {
		return err
	}
	if _, err := run("policy", "create", "load", policy); err != nil {
		return err
	}
	device := filepath.Join(dir, "device")
	if _, err := run("cert", "create", "--name", "load", "--policy", "load", "-o", device); err != nil {
		return err
	}
	s.cert, s.key = filepath.Join(device, "certificate.pem"), filepath.Join(device, "private.key")
	return nil
}

// ask returns one of the server's profiles.
func (s *settings) ask(what string) ([]byte, error) {
	token, err := os.ReadFile(s.token)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequest("GET", s.api+"/debug/pprof/"+what, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", what, res.Status)
	}
	return io.ReadAll(res.Body)
}

// writeProfile writes what the server spends its CPU on while it is measured.
func (s *settings) writeProfile() error {
	time.Sleep(s.warmup)
	b, err := s.ask(fmt.Sprintf("profile?seconds=%d", max(1, int(s.duration.Seconds()))))
	if err != nil {
		return err
	}
	return os.WriteFile(s.profile, b, 0o600)
}
