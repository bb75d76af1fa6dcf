// Package server joins the rooms into the running Weir: the log, the gateway,
// the rules engine and its actions, shadows, the registry, functions, the control
// API. It is the one place that knows all of them; cmd/weir runs it, and tests do.
//
// A message's way through the rooms is in their own comments; New opens them in
// the order of dependence, Run runs them, and what was started last ends first:
// the gateway stops taking messages before the rules engine saves its
// positions, and the log ends last.
package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/weir-iot/weir/actions"
	"github.com/weir-iot/weir/actions/awsenv"
	webhook "github.com/weir-iot/weir/actions/http"
	"github.com/weir-iot/weir/actions/install"
	"github.com/weir-iot/weir/actions/republish"
	"github.com/weir-iot/weir/actions/s3/localstore"
	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/control/awsapi"
	"github.com/weir-iot/weir/functions"
	"github.com/weir-iot/weir/functions/lambdaapi"
	"github.com/weir-iot/weir/ingest"
	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/ingest/auth/custom"
	"github.com/weir-iot/weir/ingest/azure"
	"github.com/weir-iot/weir/ingest/domain"
	"github.com/weir-iot/weir/ingest/https"
	"github.com/weir-iot/weir/ingest/mqtt"
	"github.com/weir-iot/weir/ingest/mux"
	"github.com/weir-iot/weir/internal/config"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/kv"
	"github.com/weir-iot/weir/internal/rulefolder"
	"github.com/weir-iot/weir/internal/seal"
	"github.com/weir-iot/weir/internal/telemetry"
	"github.com/weir-iot/weir/registry"
	"github.com/weir-iot/weir/registry/provision"
	"github.com/weir-iot/weir/rules"
	"github.com/weir-iot/weir/rules/eval"
	"github.com/weir-iot/weir/rules/replay"
	"github.com/weir-iot/weir/shadow"
)

// Options are what a Server needs beside its configuration.
type Options struct {
	Config *config.Config
	Dev    bool // weir dev: an S3 of its own, webhooks to loopback need no confirmation
	Logger *slog.Logger

	// RuleFile is told of each rule file of Config.RulesDir that was applied or
	// refused, beside the log. May be nil.
	RuleFile func(file string, applied []control.Applied, err error)

	Now func() time.Time // nil: time.Now
}

// Server is one running Weir.
type Server struct {
	o        Options
	cfg      *config.Config
	logger   *slog.Logger
	now      func() time.Time
	registry *prometheus.Registry
	build    telemetry.Build
	started  time.Time
	dataDir  string // absolute

	roles        roleSet
	log          *eventlog.Log
	box          *seal.Box // of the roles ingest and registry
	ca           *auth.CA
	things       *registry.Registry
	logLevels    *logLevels
	directory    *directory
	policies     *auth.Policies
	authn        *auth.Registered
	localS3      *localstore.Server // nil: AWS as the environment says
	awsConfig    func(context.Context) (aws.Config, error)
	awsLookups   eval.Lookups // services of AWS that rules may ask; those it does not reach are nil
	destinations *webhook.Destinations
	language     rules.SQL
	checker      rules.Checker
	lanes        *actions.Maker
	dead         *actions.Dead
	outcomes     *actions.Outcomes
	functions    *functions.Service
	store        *rules.Store
	engine       *rules.Engine
	jobs         *replay.Jobs
	shadows      *shadow.Service
	domains      *domains
	names        *domain.Names
	authorizers  *custom.Authenticator
	provision    *provision.Service // nil: another process enrols devices
	enrolment    enrolment
	methods      *mux.Methods
	catchUps     chan struct{} // places of those who wait for the registry; see newcomers
	gateway      *mqtt.Server
	serving      <-chan struct{} // closed once the gateway takes connections; nil without one
	azure        *azure.Hub
	azureREST    http.Handler
	mux          *mux.Server   // nil: not served
	https        *https.Server // nil: not served
	rules        *ruleService
	folder       *rulefolder.Watcher // nil: none
	aws          *awsapi.API
	signatures   *signatures
	denials      *ingest.Denials // of the credentials provider
	services     *services       // nil: embedded, all roles are here
	api          *control.Server
	apiListener  net.Listener

	first     []uint64 // committed ends at the start
	endpoints Endpoints
	ready     chan struct{}
	share     func(context.Context) error // with other processes, what New has made; nil: there is nothing to share
	closers   []func() error              // of what New opened and Run does not close, in order
}

// New opens everything a Weir needs: folders, the log, listeners. Nothing is
// served before Run. On an error nothing stays open.
func New(ctx context.Context, o Options) (_ *Server, err error) {
	s := &Server{o: o, cfg: o.Config, now: o.Now, build: telemetry.ReadBuild(), ready: make(chan struct{}), logLevels: &logLevels{}}
	s.logger = slog.New(&clientLog{next: o.Logger.Handler(), set: s.logLevels})
	if s.now == nil {
		s.now = time.Now
	}
	s.started = s.now()
	s.registry = telemetry.NewRegistry(s.build.Version)
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if s.roles, err = rolesOf(s.cfg.Roles); err != nil {
		return nil, err
	}
	for _, part := range []struct {
		of   roleSet
		open func(context.Context) error
	}{
		{everyRole, s.openFolder},
		{everyRole, s.openLog},
		{everyRole, s.openServices},
		{everyRole &^ shadowRole, s.openAWSEnvironment},
		{everyRole &^ shadowRole, s.openAWSLookups},
		{ingestRole | registryRole, s.openSecrets},
		{ingestRole | registryRole, s.openCA},
		{ingestRole | registryRole | rulesRole, s.openRegistry},
		{ingestRole | registryRole, s.openAuth},
		{rulesRole | registryRole, s.openActions},
		{everyRole &^ shadowRole, s.openFunctions},
		{ingestRole | registryRole, s.openProvision},
		{everyRole, s.openShadows},
		{rulesRole | registryRole, s.openRules},
		{rulesRole, s.openEngine},
		{rulesRole | registryRole, s.openTrials},
		{ingestRole | registryRole, s.openAuthorizers},
		{ingestRole, s.openIdentity},
		{ingestRole, s.openAzure},
		{ingestRole, s.openGateway},
		{ingestRole | registryRole, s.openAWS},
		{everyRole, s.openControl},
		{registryRole, s.openRulesFolder},
	} {
		if s.roles&part.of == 0 {
			continue
		}
		if err := part.open(ctx); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Run serves until ctx ends or a part fails; every goroutine it started has
// ended on return.
func (s *Server) Run(ctx context.Context) error {
	parts := newStack(s.logger)
	parts.start("log", s.log.Run)
	if s.share != nil {
		if err := s.share(ctx); err != nil {
			return errors.Join(err, parts.stop())
		}
	}
	if s.things != nil {
		parts.start("registry", s.things.Run)
	}
	if s.ca != nil {
		if err := s.registerOwner(ctx); err != nil {
			return errors.Join(err, parts.stop())
		}
	}
	if s.localS3 != nil {
		parts.start("S3", s.localS3.Run)
	}
	if s.services != nil {
		parts.start("services", s.services.Run)
	}
	if s.destinations != nil { // whoever made one asks for its confirmation
		parts.start("HTTP destinations", s.destinations.Run)
	}
	if s.functions != nil {
		parts.start("functions", s.functions.Run)
	}
	if s.engine != nil {
		parts.start("rules engine", s.engine.Run)
		parts.start("canaries and backfills", s.jobs.Run)
	}
	parts.start("shadows", s.shadows.Run)
	if s.provision != nil {
		parts.start("provisioning", s.provision.Run)
	}
	if s.authorizers != nil {
		parts.start("custom authorizers", s.authorizers.Run)
	}
	if s.azure != nil {
		parts.start("Azure dialect", s.azure.Run)
	}
	if s.gateway != nil {
		parts.start("MQTT gateway", s.gateway.Run)
	}
	if s.https != nil {
		parts.start("HTTPS gateway", s.behindGateway(s.https.Run))
	}
	if s.mux != nil {
		parts.start("one port", s.behindGateway(s.mux.Run))
	}
	parts.start("control API", func(ctx context.Context) error { return s.api.Run(ctx, s.apiListener) })
	if s.folder != nil {
		parts.start("rules folder", s.watchRules)
	}
	if s.serving == nil || parts.await(ctx, s.serving) {
		if err := s.endpoints.write(s.dataDir); err != nil {
			return errors.Join(err, parts.stop())
		}
		close(s.ready)
	}
	err := parts.wait(ctx)
	if err != nil {
		s.logger.Error("stopped", "err", err)
	} else {
		s.logger.Info("stopped")
	}
	return err
}

// behindGateway returns run, begun once the gateway takes connections: WebSockets
// and what comes by the one port are handed to it.
func (s *Server) behindGateway(run func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-s.serving:
			return run(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

// Close lets go of what New opened, in reverse. Run must have returned, or not
// have been called.
func (s *Server) Close() error {
	var all []error
	for i := len(s.closers) - 1; i >= 0; i-- {
		all = append(all, s.closers[i]())
	}
	s.closers = nil
	return errors.Join(all...)
}

// Ready is closed once everything is served.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Endpoints returns where the server can be reached.
func (s *Server) Endpoints() Endpoints { return s.endpoints }

func (s *Server) onClose(f func() error) { s.closers = append(s.closers, f) }

func (s *Server) openFolder(context.Context) error {
	dir, err := filepath.Abs(s.cfg.DataDir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	s.dataDir = dir
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	s.onClose(lock.Close)
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return &FolderError{Dir: s.cfg.DataDir}
	}
	return nil
}

func (s *Server) openLog(ctx context.Context) error {
	durability, ok := map[string]eventlog.Durability{"disk": eventlog.Disk, "os": eventlog.OS, "memory": eventlog.Memory}[s.cfg.Durability]
	if !ok {
		return fmt.Errorf("durability %q is not known", s.cfg.Durability)
	}
	if err := probe("listen.nats", s.cfg.Listen.NATS); err != nil && s.cfg.NATS.URL == "" {
		return err
	}
	log, err := eventlog.Open(ctx, eventlog.Options{
		Dir: filepath.Join(s.dataDir, "log"), URL: s.cfg.NATS.URL, Creds: s.cfg.NATS.Creds,
		Durability: durability, Partitions: s.cfg.Partitions,
		MaxBytes: s.cfg.Events.MaxBytes, MaxAge: s.cfg.Events.MaxAge, MaxSubjects: s.cfg.Events.MaxSubjects,
		ListenAddr: s.cfg.Listen.NATS, Logger: s.logger.With("room", "log"), Now: s.now, Registerer: s.registry, Holders: holders,
	})
	if err != nil {
		return err
	}
	s.log = log
	s.onClose(log.Close)
	s.first = make([]uint64, log.Partitions())
	for p := range s.first {
		s.first[p] = log.Committed(p)
	}
	if a := log.Addr(); a != "" {
		s.endpoints.NATS = strings.TrimPrefix(a, "nats://")
		s.endpoints.NATSCreds = filepath.Join(s.dataDir, "log", "nats-reader.creds")
	}
	return nil
}

func (s *Server) openCA(context.Context) error {
	ca, err := auth.OpenCA(filepath.Join(s.dataDir, caFolder), s.cfg.TLS.Names, s.now)
	if err != nil {
		return err
	}
	s.ca = ca
	s.endpoints.CAFile = ca.File()
	s.endpoints.CertFile, s.endpoints.KeyFile, err = ownerCertificate(ca, s.dataDir, s.now())
	return err
}

// openAWSEnvironment says how AWS is reached: as the environment has it, and in
// weir dev with an S3 of its own.
func (s *Server) openAWSEnvironment(context.Context) error {
	o := awsenv.Options{Region: s.cfg.Region}
	if s.o.Dev {
		local, err := localstore.Open(localstore.Options{Dir: filepath.Join(s.dataDir, "s3"), AutoBucket: true,
			Logger: s.logger.With("room", "s3"), Now: s.now})
		if err != nil {
			return err
		}
		s.localS3 = local
		o.LocalS3, o.NoMetadata = local, true
		o.Credentials = aws.Credentials{AccessKeyID: "weir", SecretAccessKey: "weir", Source: "weir dev"}
	}
	s.awsConfig = awsenv.New(o).Config
	return nil
}

func (s *Server) openActions(ctx context.Context) error {
	b, err := kv.Open(ctx, s.log, kv.Config{Name: "destinations"})
	if err != nil {
		return err
	}
	policy := webhook.Policy{AllowPrivate: s.cfg.HTTP.AllowPrivate, AllowNetworks: s.cfg.HTTP.AllowNetworks}
	s.destinations, err = webhook.OpenDestinations(ctx, webhook.DestinationOptions{
		Store: destinationStore{b}, AccountID: s.cfg.AccountID, Region: s.cfg.Region, EnableURL: s.cfg.HTTP.EnableURL,
		Policy: policy, EnableLoopback: s.o.Dev && s.cfg.HTTP.AllowPrivate, Logger: s.logger.With("room", "actions"), Now: s.now,
	})
	if err != nil {
		return err
	}
	limits := s.limits()
	logger := s.logger.With("room", "actions")
	s.dead, err = actions.OpenDead(s.log, s.cfg.Dead.MaxBytes, logger)
	if err != nil {
		return err
	}
	if s.outcomes, err = actions.OpenOutcomes(s.log, 0, logger); err != nil {
		return err
	}
	s.lanes = &actions.Maker{
		Kinds: install.Kinds(), Outcomes: s.outcomes,
		Env: actions.Env{
			AccountID: s.cfg.AccountID, Region: s.cfg.Region, Logger: logger, Publish: s.log.Publish, PublishAll: republish.ToLog(s.log), TopicLimits: limits.Topic(),
			AWS: s.awsConfig, AllowPrivate: policy.AllowPrivate, AllowNetworks: policy.AllowNetworks, Destinations: s.destinations,
		},
		Dead: s.dead,
		Lane: actions.LaneOptions{RetryFor: s.cfg.Retry.For, AWSRetries: s.cfg.Retry.Tries == "aws", Logger: logger, Now: s.now},
	}
	return nil
}

func (s *Server) openRules(ctx context.Context) error {
	s.language = rules.SQL{AccountID: s.cfg.AccountID, Lookups: s.lookups()}
	s.checker = rules.Checker{Language: s.language, Action: s.checkAction}
	stored, err := kv.Open(ctx, s.log, kv.Config{Name: "registry"})
	if err != nil {
		return err
	}
	s.store = rules.NewStore(stored, s.checker.Check, rules.Ends(rules.OnLog(s.log)), s.now)
	s.rules = &ruleService{s: s}
	return nil
}

func (s *Server) openEngine(ctx context.Context) error {
	positions, err := kv.Open(ctx, s.log, kv.Config{Name: "lanes"})
	if err != nil {
		return err
	}
	s.engine, err = rules.New(rules.Options{
		Log: rules.OnLog(s.log), Store: s.store, Positions: positions, Language: s.language, Lanes: s.makeLane,
		Owner: s.owner(), Logger: s.logger.With("room", "rules"), Now: s.now,
	})
	if err != nil {
		return err
	}
	return s.registry.Register(s.engine)
}

// owner names this process in the leases of partitions. A data folder has one
// process, which takes its own lease over at once after a crash; on a cluster
// any process may come next.
func (s *Server) owner() string {
	if s.cfg.NATS.URL == "" {
		return "embedded"
	}
	return ""
}

func (s *Server) safety() ingest.Safety {
	safety := ingest.DefaultSafety()
	safety.ConnectTimeout = s.cfg.Safety.ConnectTimeout
	safety.Unauthenticated = s.cfg.Safety.Unauthenticated
	safety.FailedLogins = s.cfg.Safety.FailedLogins
	safety.MaxConnections = s.cfg.Safety.Connections
	safety.RetainedBytes = int(s.cfg.Safety.RetainedBytes)
	return safety
}

func (s *Server) openGateway(ctx context.Context) error {
	limits, safety := s.limits(), s.safety()
	retained, err := kv.Open(ctx, s.log, kv.Config{Name: "retained"})
	if err != nil {
		return err
	}
	sessions, err := kv.Open(ctx, s.log, kv.Config{Name: "sessions"})
	if err != nil {
		return err
	}
	leases, err := kv.Open(ctx, s.log, kv.Config{Name: "leases"})
	if err != nil {
		return err
	}
	gw, err := mqtt.New(mqtt.Options{
		Log: mqtt.OnLog(s.log), Retained: retained, Sessions: sessions, Leases: leases, Conn: s.services.conn(), Retention: s.cfg.Events.MaxAge, Lifecycle: true,
		Authenticator: newcomers{s.methods, s}, Authorizer: &azure.Authorizer{Hub: s.azure, Next: s.policies},
		Limits: limits, Safety: safety, Rates: s.rates(), Plain: s.cfg.Listen.MQTT, TLS: s.cfg.Listen.MQTTS,
		TLSConfig: s.names.TLSConfig(mqtt.Protocols...), Private: privateCalls{s},
		Logger: s.logger.With("room", "mqtt"), Registerer: s.registry, Now: s.now,
	})
	if err != nil {
		return portTaken("listen.mqtt", s.cfg.Listen.MQTT, portTaken("listen.mqtts", s.cfg.Listen.MQTTS, err))
	}
	s.gateway, s.serving = gw, gw.Serving()
	s.onClose(func() error { gw.Close(); return nil })
	if a := gw.Addr(auth.Plain); a != nil {
		s.endpoints.MQTT = a.String()
	}
	if a := gw.Addr(auth.TLS); a != nil {
		s.endpoints.MQTTS = a.String()
	}
	if err := s.openMux(); err != nil {
		return err
	}
	if s.cfg.Listen.HTTPS == "" && s.mux == nil {
		return nil
	}
	o := https.Options{
		MayRetain: gw.MayRetain,
		Log:       s.log, Authenticator: newcomers{s.methods, s}, Authorizer: s.policies, Limits: limits, Safety: safety, Addr: s.cfg.Listen.HTTPS,
		TLSConfig: s.names.TLSConfig(https.Protocols...),
		MQTT:      gw.WebSocket(https.TLSState), WebSockets: []string{azure.WebSocketPath}, Service: s.azureService, Data: http.HandlerFunc(s.serveData),
		Logger: s.logger.With("room", "https"), Registerer: s.registry, Now: s.now,
	}
	if s.mux != nil {
		o.Mux, o.MuxTLSConfig = s.mux.HTTP(), s.names.MuxTLSConfig(https.Protocols...)
	}
	s.https, err = https.New(o)
	if err != nil {
		return portTaken("listen.https", s.cfg.Listen.HTTPS, err)
	}
	s.onClose(func() error { s.https.Close(); return nil })
	if a := s.https.Addr(); a != nil {
		s.endpoints.HTTPS = a.String()
	}
	return nil
}

func (s *Server) openControl(context.Context) error {
	token, err := control.OpenToken(s.dataDir)
	if err != nil {
		return err
	}
	o := control.Options{
		Token: token, Hosts: s.cfg.API.Hosts, Status: s,
		Rules: s.rules, Trials: &trials{s}, Explainer: &explainer{s}, Dead: graveyard{s}, Destinations: owners{s.destinations},
		Tailer: &tailer{s.log}, Shadows: s.shadows, Clients: devices{mqtt.NewGateways(s.gateway, s.services.conn())}, Authz: authz{s},
		StatusOnly: s.roles&registryRole == 0,
		Health:     telemetry.Health(s.healthy), Metrics: telemetry.Metrics(s.registry, s.logger), Logger: s.logger.With("room", "control"),
	}
	if s.roles&registryRole != 0 {
		o.Registry, o.AWS = people{s.things, string(s.ca.PEM())}, s.aws
		o.Functions, o.Lambda = s.functionsAPI(token)
		o.LambdaRoots = lambdaapi.Roots
	}
	if s.cfg.Debug.Pprof {
		o.Profiles = telemetry.Profiles()
	}
	if s.api, err = control.New(o); err != nil {
		return err
	}
	if s.apiListener, err = net.Listen("tcp", s.cfg.Listen.API); err != nil {
		return portTaken("listen.api", s.cfg.Listen.API, err)
	}
	s.onClose(func() error { s.apiListener.Close(); return nil })
	if !config.Loopback(s.cfg.Listen.API) {
		s.logger.Warn("the control API can be reached from other machines and has no TLS: put a proxy with TLS in front of it", "listen.api", s.cfg.Listen.API)
	}
	s.endpoints.PID = os.Getpid()
	s.endpoints.DataDir = s.dataDir
	s.endpoints.API = "http://" + s.apiListener.Addr().String()
	s.endpoints.TokenFile = filepath.Join(s.dataDir, control.TokenFile)
	s.endpoints.AccessKeyFile = filepath.Join(s.dataDir, control.AccessKeyFile)
	s.endpoints.Region = s.cfg.Region
	s.onClose(func() error {
		if err := os.Remove(filepath.Join(s.dataDir, EndpointsFile)); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
	return nil
}

// healthy is asked by /healthz.
func (s *Server) healthy(context.Context) error {
	select {
	case <-s.ready:
	default:
		return errors.New("starting")
	}
	return s.log.Ready()
}

// FolderError says that another Weir runs on the data folder.
type FolderError struct{ Dir string }

func (e *FolderError) Error() string {
	return fmt.Sprintf("another Weir runs on the data folder %s", e.Dir)
}

// PortError says that a listener's port is taken.
type PortError struct {
	Key  string // of the configuration
	Addr string
	Err  error
}

func (e *PortError) Error() string {
	return fmt.Sprintf("%s is in use by another process (%s)", e.Addr, e.Key)
}
func (e *PortError) Unwrap() error { return e.Err }

// probe reports whether addr can be listened on. The embedded NATS server tries
// for half a minute and then does not say why.
func probe(key, addr string) error {
	if addr == "" {
		return nil
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return portTaken(key, addr, err)
	}
	return l.Close()
}

func portTaken(key, addr string, err error) error {
	var taken *PortError
	if err == nil || errors.As(err, &taken) || addr == "" {
		return err
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		return err
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Addr != nil && !sameAddr(op.Addr.String(), addr) {
		return err
	}
	return &PortError{Key: key, Addr: addr, Err: errs.E("server", errs.Unavailable, err)}
}

func sameAddr(bound, asked string) bool {
	_, p1, err1 := net.SplitHostPort(bound)
	_, p2, err2 := net.SplitHostPort(asked)
	return err1 == nil && err2 == nil && p1 == p2
}
