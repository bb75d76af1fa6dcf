package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	webhook "github.com/weir-iot/weir/actions/http"
	"github.com/weir-iot/weir/internal/mqttclient"
)

// seen counts what arrived at a destination, repeats once.
type seen struct {
	mu      sync.Mutex // guards what follows
	ids     map[string]struct{}
	repeats int
	where   string // of the last one
	last    string
}

func (s *seen) add(id, where string, payload []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ids == nil {
		s.ids = map[string]struct{}{}
	}
	if _, ok := s.ids[id]; ok {
		s.repeats++
		return
	}
	s.ids[id] = struct{}{}
	s.where, s.last = where, string(payload)
}

func (s *seen) state() (n int, where, last string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.ids), s.where, s.last
}

// receiver is the demo's webhook: a web server on loopback that counts.
type receiver struct {
	seen
	listener net.Listener
	http     *http.Server
}

// newReceiver listens on addr, or where that is taken on a free port.
func newReceiver(addr string) (*receiver, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return nil, err
		}
	}
	r := &receiver{listener: l}
	r.http = &http.Server{Handler: r, ReadTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	return r, nil
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodPost {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, 1<<20))
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if id := req.Header.Get(webhook.HeaderMessageID); id != "" {
		r.add(id, "POST "+req.URL.Path, body)
	}
	w.WriteHeader(http.StatusOK)
}

func (r *receiver) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { r.http.Close() })
	defer stop()
	if err := r.http.Serve(r.listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// objects counts the files of a bucket of the local S3, and reads the newest.
type objects struct {
	dir    string // of the bucket
	known  map[string]struct{}
	newest string
	last   string
}

func (o *objects) scan() int {
	if o.known == nil {
		o.known = map[string]struct{}{}
	}
	var newest time.Time
	_ = filepath.WalkDir(o.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".json") {
			return nil
		}
		if _, ok := o.known[path]; ok {
			return nil
		}
		o.known[path] = struct{}{}
		if info, err := d.Info(); err == nil && info.ModTime().After(newest) {
			newest, o.newest = info.ModTime(), path
		}
		return nil
	})
	if !newest.IsZero() {
		if b, err := os.ReadFile(o.newest); err == nil {
			o.last = string(b[:min(len(b), 4096)])
		}
	}
	return len(o.known)
}

// subscriber counts the republished alerts.
type subscriber struct {
	mu    sync.Mutex // guards what follows
	n     int
	topic string
	last  string
}

func (s *subscriber) message(m *mqttclient.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !m.Duplicate {
		s.n++
	}
	s.topic, s.last = m.Topic, string(m.Payload)
}

func (s *subscriber) state() (n int, topic, last string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n, s.topic, s.last
}
