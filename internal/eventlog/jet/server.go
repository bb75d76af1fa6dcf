package jet

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
)

// The embedded server has two accounts. WEIR holds the streams; only this
// process enters it, in process, with a password that lives in memory.
// READER is for data teams: what its user can reach of WEIR are the service
// imports of readerServices, so neither a reply subject nor a consumer it makes
// can be aimed at WEIR's own subjects.
const (
	weirAccount   = "WEIR"
	readerAccount = "READER"
	readerCreds   = "nats-reader.creds"
)

// gate decides who may enter the embedded server.
type gate struct {
	secret string // of the internal user
	reader string // public key of the reader's user
	srv    *server.Server
}

func newSecret() (string, error) {
	var b [24]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", err
	}
	return hex.EncodeToString(b[:]), nil
}

// Check implements server.Authentication.
func (g *gate) Check(c server.ClientAuthentication) bool {
	o := c.GetOpts()
	if o.Sig == "" {
		if o.Username != "weir" || subtle.ConstantTimeCompare([]byte(o.Password), []byte(g.secret)) != 1 {
			return false
		}
		if a := c.RemoteAddress(); a != nil && a.Network() != "pipe" {
			return false // the internal user never comes over the network
		}
		return g.register(c, weirAccount, nil)
	}
	// There is one reader, so which user signed is known; the JWT that comes
	// with the signature says nothing more.
	key, err := nkeys.FromPublicKey(g.reader)
	if err != nil {
		return false
	}
	sig, err := base64.RawURLEncoding.DecodeString(o.Sig)
	if err != nil {
		return false
	}
	if key.Verify(c.GetNonce(), sig) != nil {
		return false
	}
	return g.register(c, readerAccount, readerPermissions)
}

func (g *gate) register(c server.ClientAuthentication, account string, p *server.Permissions) bool {
	a, err := g.srv.LookupAccount(account)
	if err != nil {
		return false
	}
	c.RegisterUser(&server.User{Username: strings.ToLower(account), Account: a, Permissions: p})
	return true
}

// readerPermissions: ask the imported services, receive answers.
var readerPermissions = &server.Permissions{
	Publish: &server.SubjectPermission{Allow: []string{
		"$JS.API.INFO", "$JS.API.STREAM.INFO.*", "$JS.API.CONSUMER.>", "$JS.API.DIRECT.GET.>", "$JS.ACK.>",
	}},
	Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}},
}

// slogger hands the server's warnings and errors to slog. Its notices are of
// interest only while looking into the store itself.
type slogger struct{ l *slog.Logger }

func (s slogger) Noticef(f string, v ...any) { s.l.Debug("nats: " + fmt.Sprintf(f, v...)) }
func (s slogger) Warnf(f string, v ...any)   { s.l.Warn("nats: " + fmt.Sprintf(f, v...)) }
func (s slogger) Fatalf(f string, v ...any)  { s.l.Error("nats: " + fmt.Sprintf(f, v...)) }
func (s slogger) Errorf(f string, v ...any)  { s.l.Error("nats: " + fmt.Sprintf(f, v...)) }
func (s slogger) Debugf(string, ...any)      {}
func (s slogger) Tracef(string, ...any)      {}

// startServer starts the embedded server over dir.
func startServer(o Options, g *gate, maxStore int64) (*server.Server, error) {
	host, port := "", 0
	if o.ListenAddr != "" {
		h, p, err := net.SplitHostPort(o.ListenAddr)
		if err != nil {
			return nil, err
		}
		if port, err = strconv.Atoi(p); err != nil {
			return nil, err
		}
		host = h
		if port == 0 {
			port = server.RANDOM_PORT
		}
	}
	sync := ""
	if o.Durability == Disk {
		sync = "sync_interval: always"
	}
	exports, imports := "", ""
	if o.ListenAddr != "" {
		exports, imports = readerConfig(o.Readable)
	}
	conf := fmt.Sprintf(`
jetstream { store_dir: %q, max_file_store: %d, max_memory_store: %d, %s }
accounts {
	%s { jetstream: enabled, exports: [ %s ] }
	%s { imports: [ %s ] }
}
`, o.Dir, maxStore, maxStore, sync, weirAccount, exports, readerAccount, imports)
	opts := &server.Options{}
	if err := opts.ProcessConfigString(conf); err != nil {
		return nil, err
	}
	opts.ServerName = "weir"
	opts.Host, opts.Port = host, port
	opts.DontListen = o.ListenAddr == ""
	opts.NoSigs = true
	opts.NoLog = o.Logger == nil
	opts.DisableJetStreamBanner = true
	opts.AlwaysEnableNonce = true
	opts.CustomClientAuthentication = g
	opts.MaxPayload = MaxMessage + 128<<10 // headers
	// Raw connections answer PINGs only while they read.
	opts.PingInterval = 24 * time.Hour
	opts.WriteDeadline = 30 * time.Second
	// Who connects is on this machine, and a loaded one takes its time.
	opts.AuthTimeout = 10
	s, err := server.NewServer(opts)
	if err != nil {
		return nil, err
	}
	if o.Logger != nil {
		s.SetLoggerV2(slogger{o.Logger}, false, false, false)
	}
	g.srv = s
	s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		s.Shutdown()
		s.WaitForShutdown()
		return nil, errors.New("the embedded NATS server did not become ready")
	}
	if !s.JetStreamEnabled() {
		s.Shutdown()
		s.WaitForShutdown()
		return nil, errors.New("the embedded NATS server could not enable JetStream")
	}
	return s, nil
}

// readerIdentity returns the public key of the reader's user, whose
// credentials file it makes where there is none. The file stays the same over
// restarts, so that data teams can keep a copy.
func readerIdentity(dir string) (string, error) {
	file := filepath.Join(dir, readerCreds)
	b, err := os.ReadFile(file)
	if err == nil {
		key, err := nkeys.ParseDecoratedUserNKey(b)
		if err != nil {
			return "", fmt.Errorf("%s: %w", file, err)
		}
		defer key.Wipe()
		return key.PublicKey()
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	user, err := nkeys.CreateUser()
	if err != nil {
		return "", err
	}
	defer user.Wipe()
	pub, err := user.PublicKey()
	if err != nil {
		return "", err
	}
	seed, err := user.Seed()
	if err != nil {
		return "", err
	}
	// A NATS client wants a JWT in a credentials file. The gate reads only the
	// user's key from it and checks that the client holds its seed.
	issuer, err := nkeys.CreateAccount()
	if err != nil {
		return "", err
	}
	defer issuer.Wipe()
	claims := jwt.NewUserClaims(pub)
	claims.Name = "reader"
	token, err := claims.Encode(issuer)
	if err != nil {
		return "", err
	}
	creds, err := jwt.FormatUserConfig(token, seed)
	if err != nil {
		return "", err
	}
	return pub, writeFile(file, creds)
}

// writeFile writes a small file whole or not at all, readable by its owner only.
func writeFile(name string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(0o600), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
