package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/gorilla/websocket"

	"github.com/weir-iot/weir/registry"
)

// A device with an access key may what the key's policy says, on HTTPS and on
// MQTT over WebSocket; a key that is switched off ends its connections.
func TestAccessKeysOfDevices(t *testing.T) {
	o := options(t)
	var log lockedBuffer
	o.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		stop()
		wg.Wait()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	<-s.Ready()
	const document = `{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Action":"iot:Connect","Resource":"arn:aws:iot:us-east-1:123456789012:client/sensor-*"},
		{"Effect":"Allow","Action":"iot:Publish","Resource":"arn:aws:iot:us-east-1:123456789012:topic/mine/*"}]}`
	key, secret, err := s.things.CreateAccessKey(t.Context(), document, "")
	if err != nil {
		t.Fatal(err)
	}
	session, err := s.things.CreateSession(key.ID, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	long := aws.Credentials{AccessKeyID: key.ID, SecretAccessKey: secret}
	short := aws.Credentials{AccessKeyID: session.AccessKeyID, SecretAccessKey: session.Secret, SessionToken: session.Token}
	_, port, _ := net.SplitHostPort(s.Endpoints().Mux)
	tlsConfig := &tls.Config{RootCAs: s.ca.Pool(), ServerName: "localhost"}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: tlsConfig}}
	t.Cleanup(client.CloseIdleConnections)
	hash := func(b string) string {
		h := sha256.Sum256([]byte(b))
		return hex.EncodeToString(h[:])
	}
	publish := func(c aws.Credentials, topic string) int {
		t.Helper()
		r, err := http.NewRequest(http.MethodPost, "https://localhost:"+port+"/topics/"+topic+"?qos=1", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		if err := v4.NewSigner().SignHTTP(t.Context(), c, r, hash("x"), "iotdata", "us-east-1", time.Now()); err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		_, _ = io.Copy(io.Discard, res.Body)
		return res.StatusCode
	}
	for _, c := range []aws.Credentials{long, short} {
		if got := publish(c, "mine%2Fa"); got != 200 {
			t.Errorf("%s on its topic: %d", c.AccessKeyID, got)
		}
		if got := publish(c, "other"); got != 403 {
			t.Errorf("%s on another topic: %d", c.AccessKeyID, got)
		}
	}
	other := short
	other.SessionToken = strings.ToLower(short.SessionToken)
	if got := publish(other, "mine%2Fa"); got != 403 {
		t.Errorf("a session token that is not the key's: %d", got)
	}

	// connect opens MQTT over WebSocket and returns the connection and CONNACK's
	// return code.
	connect := func(c aws.Credentials, clientID string) (*websocket.Conn, byte) {
		t.Helper()
		r, err := http.NewRequest(http.MethodGet, "wss://localhost:"+port+"/mqtt", nil)
		if err != nil {
			t.Fatal(err)
		}
		u, _, err := v4.NewSigner().PresignHTTP(t.Context(), c, r, hash(""), "iotdevicegateway", "us-east-1", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		d := websocket.Dialer{TLSClientConfig: tlsConfig, Subprotocols: []string{"mqtt"}}
		wc, res, err := d.Dial(u, nil)
		if err != nil {
			if res != nil {
				return nil, byte(res.StatusCode - 400)
			}
			t.Fatal(err)
		}
		t.Cleanup(func() { wc.Close() })
		b := append([]byte("\x10\x00\x00\x04MQTT\x04\x02\x00\x3c\x00"), byte(len(clientID)))
		b = append(b, clientID...)
		b[1] = byte(len(b) - 2)
		if err := wc.WriteMessage(websocket.BinaryMessage, b); err != nil {
			t.Fatal(err)
		}
		wc.SetReadDeadline(time.Now().Add(20 * time.Second))
		_, got, err := wc.ReadMessage()
		if err != nil || len(got) < 4 {
			t.Fatalf("CONNACK: %x %v", got, err)
		}
		return wc, got[3]
	}
	if _, code := connect(long, "stranger"); code != 5 {
		t.Errorf("a client id the policy does not allow: %d", code)
	}
	first, code := connect(long, "sensor-1")
	if code != 0 {
		t.Fatalf("refused: %d", code)
	}
	second, code := connect(short, "sensor-2")
	if code != 0 {
		t.Fatalf("refused with a session: %d", code)
	}
	if _, err := s.things.UpdateAccessKey(t.Context(), key.ID, registry.Inactive, ""); err != nil {
		t.Fatal(err)
	}
	if got := publish(long, "mine%2Fa"); got != 403 {
		t.Errorf("a key that is switched off: %d", got)
	}
	if _, code := connect(long, "sensor-3"); code != 3 { // HTTP 403
		t.Errorf("a key that is switched off connects: %d", code)
	}
	for _, wc := range []*websocket.Conn{first, second} {
		wc.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, b, err := wc.ReadMessage(); err == nil {
			t.Errorf("still there: %x", b)
		}
	}
	for name, canary := range map[string]string{"secret": secret, "session secret": session.Secret, "session token": session.Token, "signature": "X-Amz-Signature"} {
		if strings.Contains(log.String(), canary) {
			t.Errorf("%s in the log", name)
		}
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
