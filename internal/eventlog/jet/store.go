package jet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"golang.org/x/sys/unix"

	"github.com/weir-iot/weir/internal/errs"
)

// Durability says what an acknowledgement means.
type Durability uint8

const (
	Disk   Durability = iota // synced: survives a power cut
	OS                       // written: survives the process, not a power cut
	Memory                   // survives nothing; for tests
)

// MaxMessage bounds the payload of one message, in bytes.
const MaxMessage = 1 << 20

// patience is how long a connection waits in one go before it looks whether
// waiting on makes sense.
const patience = 250 * time.Millisecond

// Options open a Store.
type Options struct {
	Dir        string // of the embedded server
	URL, Creds string // of an external cluster; URL may list several, comma separated
	Durability Durability
	MaxBytes   int64    // that the streams may take together; 0: a part of the volume
	ListenAddr string   // of the embedded server, for data teams; "": none
	Readable   []string // the streams data teams may read
	Logger     *slog.Logger
	// Deadline is how long a commit may go without an answer before its
	// outcome counts as unknown; 0: 10 s. A full disk is noticed sooner.
	Deadline time.Duration
}

// Store is the JetStream that streams and buckets live in. Its methods may be
// called concurrently.
type Store struct {
	o      Options
	gate   *gate
	lock   *os.File // flock on the folder
	maxDir int64    // byte limit of all streams

	mu      sync.Mutex // guards what follows
	srv     *server.Server
	gen     uint64        // of srv; grows with every reopening
	broken  error         // why srv must be reopened; nil while it is healthy
	change  chan struct{} // closed and replaced when gen or broken changes
	idle    []*conn       // for requests and reads, of generation gen
	closed  bool
	staging string          // folder in memory for batches that are not committed; "": none
	streams map[string]bool // that are open here; whether their batches need a redo file

	wake chan struct{} // tells Run that broken was set
	disk disk
	wrap func(net.Conn) net.Conn // tests put a fault between

	cursors atomic.Int32  // open ones
	lookups chan struct{} // a slot for each reading of one message, so that a crowd shares connections
}

// keptConns is how many connections for requests and reads are kept.
const keptConns = 16

// Open starts the embedded server or connects to the cluster.
func Open(ctx context.Context, o Options) (*Store, error) {
	const op = "jet.Open"
	if o.Deadline == 0 {
		o.Deadline = 10 * time.Second
	}
	s := &Store{o: o, change: make(chan struct{}), wake: make(chan struct{}, 1), gen: 1, lookups: make(chan struct{}, keptConns), streams: map[string]bool{}}
	if o.URL != "" {
		c, err := s.dial()
		if err != nil {
			return nil, errs.E(op, errs.Unavailable, err)
		}
		s.put(c, 1)
		s.maxDir = o.MaxBytes // 0: the cluster's own limits
		s.Logger().Warn("the NATS cluster decides what an acknowledgement is worth: it should run with sync_interval: always and three servers, which Weir cannot see from here")
		return s, nil
	}
	if o.Dir == "" {
		if o.Durability != Memory {
			return nil, errs.Errorf(op, errs.Invalid, "the embedded store needs a folder")
		}
		// The server keeps its own small files even for streams in memory.
		dir, err := os.MkdirTemp("", "weir-memory-")
		if err != nil {
			return nil, errs.E(op, errs.Internal, err)
		}
		s.o.Dir = dir
	}
	if err := os.MkdirAll(s.o.Dir, 0o700); err != nil {
		return nil, errs.E(op, errs.Unavailable, err)
	}
	if err := s.openFolder(); err != nil {
		s.unlock()
		return nil, errs.E(op, errs.Unavailable, err)
	}
	return s, nil
}

func (s *Store) openFolder() error {
	f, err := os.OpenFile(filepath.Join(s.o.Dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	s.lock = f
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("%s is in use by another process", s.o.Dir)
	}
	if err := s.disk.open(s.o.Dir); err != nil {
		return err
	}
	s.maxDir = s.o.MaxBytes
	if s.maxDir == 0 {
		s.maxDir = int64(s.disk.size / 10 * 7)
	}
	secret, err := newSecret()
	if err != nil {
		return err
	}
	s.gate = &gate{secret: secret}
	if s.o.ListenAddr != "" {
		if s.gate.reader, err = readerIdentity(s.o.Dir); err != nil {
			return err
		}
	}
	return s.start()
}

// start starts the server. What a crash left in the page cache is synced
// first: nobody may see an event that a power cut could still take away.
func (s *Store) start() error {
	if err := s.Sync(); err != nil {
		return err
	}
	// The limit of the server lies above that of the streams: a stream answers
	// when it is full, the server's limit would fail a commit half way.
	limit := min(s.maxDir+s.maxDir/4+1<<30, int64(s.disk.size/100*95))
	left := s.staged()
	s.openStaging()
	srv, err := startServer(s.o, s.gate, limit)
	if err != nil {
		_ = os.RemoveAll(s.staging)
		return err
	}
	dropStaging(left) // the server has completed what was cut off
	s.stageAll()
	if a := srv.Addr(); a != nil && s.o.ListenAddr != "" {
		s.o.ListenAddr = a.String() // the same port after reopening
	}
	s.mu.Lock()
	s.srv = srv
	s.mu.Unlock()
	return nil
}

// Sync flushes the store's file system. It is for what JetStream writes
// without syncing, such as a new stream's first files.
func (s *Store) Sync() error {
	if s.o.URL != "" || s.o.Durability != Disk {
		return nil
	}
	return syncDir(s.o.Dir)
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

// Addr returns the address data teams reach the embedded server at; "" where
// it does not listen.
func (s *Store) Addr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.o.ListenAddr
}

// Embedded reports whether the server is in this process.
func (s *Store) Embedded() bool { return s.o.URL == "" }

// Durability returns what an acknowledgement means here.
func (s *Store) Durability() Durability { return s.o.Durability }

// MaxBytes returns what the streams may take together.
func (s *Store) MaxBytes() int64 { return s.maxDir }

// Logger returns the store's logger; it is never nil.
func (s *Store) Logger() *slog.Logger {
	if s.o.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.o.Logger
}

// Close shuts the embedded server down. Appenders and readers must have ended.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	srv := s.srv
	s.srv = nil
	s.dropIdle()
	close(s.change)
	s.mu.Unlock()
	if srv != nil {
		srv.Shutdown()
		srv.WaitForShutdown()
		dropStaging(s.staged())
		_ = os.RemoveAll(s.staging)
	}
	s.unlock()
	if s.o.Durability == Memory && strings.Contains(filepath.Base(s.o.Dir), "weir-memory-") {
		return os.RemoveAll(s.o.Dir)
	}
	return nil
}

func (s *Store) unlock() {
	if s.lock != nil {
		s.lock.Close()
	}
}

func (s *Store) dropIdle() {
	for _, c := range s.idle {
		c.close()
	}
	s.idle = nil
}

// dial makes a fresh connection to the store as it is now.
func (s *Store) dial() (*conn, error) {
	if s.o.URL != "" {
		var auth authenticator
		if s.o.Creds != "" {
			auth = credentials(s.o.Creds)
		}
		var all error
		for _, u := range strings.Split(s.o.URL, ",") {
			c, err := dialURL(strings.TrimSpace(u), auth)
			if err == nil {
				return c, nil
			}
			all = errors.Join(all, err)
		}
		return nil, all
	}
	s.mu.Lock()
	srv, secret := s.srv, ""
	if s.gate != nil {
		secret = s.gate.secret
	}
	s.mu.Unlock()
	if srv == nil {
		return nil, errStale
	}
	nc, err := srv.InProcessConn()
	if err != nil {
		return nil, err
	}
	if s.wrap != nil {
		nc = s.wrap(nc)
	}
	c, err := handshake(nc, password("weir", secret), false, "")
	if err != nil {
		nc.Close()
		return nil, err
	}
	return c, nil
}

// get takes a connection for requests from the pool, or makes one.
func (s *Store) get() (*conn, uint64, error) {
	s.mu.Lock()
	gen := s.gen
	if s.closed {
		s.mu.Unlock()
		return nil, gen, errStale
	}
	if n := len(s.idle); n > 0 {
		c := s.idle[n-1]
		s.idle = s.idle[:n-1]
		s.mu.Unlock()
		return c, gen, nil
	}
	s.mu.Unlock()
	c, err := s.dial()
	return c, gen, err
}

// put gives a connection back. A dead one, or one of an older generation, is
// closed.
func (s *Store) put(c *conn, gen uint64) {
	s.mu.Lock()
	if c.dead == nil && gen == s.gen && !s.closed && len(s.idle) < keptConns {
		s.idle = append(s.idle, c)
		c = nil
	}
	s.mu.Unlock()
	if c != nil {
		c.close()
	}
}

// with runs f on a pooled connection, again on a fresh one where the pooled one
// turned out to be dead. The others in the pool are most likely dead, too: the
// server closes a connection that nobody has read from for a while, and after a
// quiet time that is all of them.
func (s *Store) with(f func(*conn) error) error {
	for try := 0; ; try++ {
		c, gen, err := s.get()
		if err != nil {
			return err
		}
		err = f(c)
		s.put(c, gen)
		if err == nil || c.dead == nil || errors.Is(err, errTimeout) || try >= 2 {
			return err
		}
		s.mu.Lock()
		s.dropIdle()
		s.mu.Unlock()
	}
}

// apiError is the error member of a JetStream answer.
type apiError struct {
	Code    int    `json:"code"`
	ErrCode int    `json:"err_code"`
	Desc    string `json:"description"`
}

func (e *apiError) Error() string { return fmt.Sprintf("%s (%d)", e.Desc, e.ErrCode) }

const (
	codeStreamNotFound  = 10059
	codeMessageNotFound = 10037
	codeWrongLastSeq    = 10071
	codeWrongLastConst  = 10164
)

// api makes one JetStream API request. out may be nil.
func (s *Store) api(subject string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	var answer []byte
	err := s.with(func(c *conn) error {
		var err error
		answer, err = c.request("$JS.API."+subject, body, s.o.Deadline)
		return err
	})
	if err != nil {
		return err
	}
	var e struct{ Error *apiError }
	if err := json.Unmarshal(answer, &e); err != nil {
		return err
	}
	if e.Error != nil {
		return e.Error
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(answer, out)
}

// StreamConfig is what Weir says about a stream.
type StreamConfig struct {
	Name        string
	Subjects    []string
	Description string
	PerSubject  int64 // messages kept of each subject; 0: all
	Singles     bool  // each unit is one message, and PerSubject is not 1: batches need no redo file
	Metadata    map[string]string
}

// StreamState is a stream's extent.
type StreamState struct {
	Messages uint64 `json:"messages"`
	Bytes    uint64 `json:"bytes"`
	FirstSeq uint64 `json:"first_seq"`
	LastSeq  uint64 `json:"last_seq"`
	Subjects int    `json:"num_subjects"`
}

type streamInfo struct {
	Config  server.StreamConfig `json:"config"`
	State   StreamState         `json:"state"`
	Cluster *struct {
		Replicas []json.RawMessage `json:"replicas"`
	} `json:"cluster"`
	Subjects map[string]uint64 `json:"-"`
}

// Ensure makes the stream, or opens it and brings the limits of an existing
// one in line. It returns the stream's metadata and state.
func (s *Store) Ensure(c StreamConfig) (map[string]string, StreamState, error) {
	const op = "jet.Ensure"
	var info streamInfo
	err := s.api("STREAM.INFO."+c.Name, nil, &info)
	var ae *apiError
	switch {
	case err == nil:
		want := s.config(c, max(1, info.Config.Replicas))
		want.Metadata = info.Config.Metadata
		have := info.Config
		if have.MaxBytes != want.MaxBytes || have.MaxMsgsPer != want.MaxMsgsPer || !have.AllowAtomicPublish || !have.AllowDirect {
			if err := s.api("STREAM.UPDATE."+c.Name, want, &info); err != nil {
				return nil, StreamState{}, errs.E(op, errs.Unavailable, fmt.Errorf("stream %s: %w", c.Name, err))
			}
		}
	case errors.As(err, &ae) && ae.ErrCode == codeStreamNotFound:
		replicas := 3
		if s.Embedded() {
			replicas = 1
			// A redo file would be of a stream that was removed.
			if err := os.Remove(s.redoFile(c.Name)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil, StreamState{}, errs.E(op, errs.Unavailable, err)
			}
		}
		err := s.api("STREAM.CREATE."+c.Name, s.config(c, replicas), &info)
		if err != nil && replicas > 1 && errors.As(err, &ae) {
			s.Logger().Warn("the NATS cluster cannot keep three replicas; one lost server loses acknowledged events", "stream", c.Name, "err", err)
			err = s.api("STREAM.CREATE."+c.Name, s.config(c, 1), &info)
		}
		if err != nil {
			return nil, StreamState{}, errs.E(op, errs.Unavailable, fmt.Errorf("stream %s: %w", c.Name, err))
		}
		if err := s.Sync(); err != nil {
			return nil, StreamState{}, errs.E(op, errs.Unavailable, err)
		}
	default:
		return nil, StreamState{}, errs.E(op, errs.Unavailable, fmt.Errorf("stream %s: %w", c.Name, err))
	}
	if s.Embedded() {
		if err := s.recover(c.Name); err != nil {
			return nil, StreamState{}, errs.E(op, errs.Unavailable, fmt.Errorf("stream %s: %w", c.Name, err))
		}
		st, err := s.State(c.Name)
		if err != nil {
			return nil, StreamState{}, errs.E(op, errs.Unavailable, err)
		}
		info.State = st
	}
	s.mu.Lock()
	s.streams[c.Name] = !c.Singles
	s.mu.Unlock()
	s.stage(c.Name)
	return info.Config.Metadata, info.State, nil
}

func (s *Store) config(c StreamConfig, replicas int) server.StreamConfig {
	storage := server.FileStorage
	if s.o.Durability == Memory {
		storage = server.MemoryStorage
	}
	sc := server.StreamConfig{
		Name: c.Name, Subjects: c.Subjects, Description: c.Description, Metadata: c.Metadata,
		Retention: server.LimitsPolicy, Discard: server.DiscardNew, Storage: storage, Replicas: replicas,
		MaxConsumers: -1, MaxMsgs: -1, MaxBytes: -1, MaxMsgsPer: -1,
		AllowDirect: true, AllowAtomicPublish: true, Duplicates: time.Second,
	}
	// No byte limit; see Appender.fits.
	if c.PerSubject > 0 {
		// What lies beyond the last ones of a subject goes; a purge or delete by
		// hand would be undone by a crash, so the stream refuses them.
		sc.MaxMsgsPer, sc.Discard = c.PerSubject, server.DiscardOld
		sc.DenyDelete, sc.DenyPurge = true, true
	}
	return sc
}

// State reads a stream's extent.
func (s *Store) State(name string) (StreamState, error) {
	var info streamInfo
	if err := s.api("STREAM.INFO."+name, nil, &info); err != nil {
		return StreamState{}, errs.E("jet.State", errs.Unavailable, err)
	}
	return info.State, nil
}

// HasSubject reports whether the stream holds a message with the subject.
func (s *Store) HasSubject(name, subject string) (bool, error) {
	_, ok, err := s.last(name, subject)
	return ok, err
}

// Purge removes all messages below keep.
func (s *Store) Purge(name string, keep uint64) error {
	err := s.api("STREAM.PURGE."+name, map[string]uint64{"seq": keep}, nil)
	if err != nil {
		return errs.E("jet.Purge", errs.Unavailable, err)
	}
	return nil
}
