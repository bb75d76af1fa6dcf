package server

import (
	"context"
	"crypto/subtle"
	"net/http"
	"path/filepath"
	"strings"

	webhook "github.com/weir-iot/weir/actions/http"
	"github.com/weir-iot/weir/functions"
	"github.com/weir-iot/weir/functions/lambdaapi"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/kv"
	"github.com/weir-iot/weir/rules/eval"
)

// openFunctions opens the functions, and gives them to the actions. In a process
// without the role it knows them and has others run them.
func (s *Server) openFunctions(ctx context.Context) error {
	b, err := kv.Open(ctx, s.log, kv.Config{Name: "functions"})
	if err != nil {
		return err
	}
	o := functions.Options{
		Bucket: b, Dir: filepath.Join(s.dataDir, "functions"), Hidden: []string{s.dataDir}, AccountID: s.cfg.AccountID, Region: s.cfg.Region,
		RequireIsolation: !s.o.Dev, Alone: s.cfg.NATS.URL == "", HTTP: s.webhooks().Transport(64), AWS: s.awsConfig,
		Logger: s.logger.With("room", "functions"), Registerer: s.registry, Now: s.now,
	}
	if s.roles&functionsRole == 0 {
		o.Elsewhere = functionsElsewhere{s.services}
	}
	s.functions, err = functions.Open(ctx, o)
	if err == nil && s.lanes != nil {
		s.lanes.Env.Functions = s.functions
	}
	return err
}

// functionsElsewhere asks the processes with the role functions.
type functionsElsewhere struct{ v *services }

// Ask implements functions.Elsewhere.
func (f functionsElsewhere) Ask(ctx context.Context, operation string, args any, body []byte, answer any) ([]byte, error) {
	return f.v.ask(ctx, "the role functions", functionsSubject, question{Operation: operation}, args, body, answer)
}

// webhooks is which addresses webhooks and functions of the runtime http reach.
func (s *Server) webhooks() webhook.Policy {
	return webhook.Policy{AllowPrivate: s.cfg.HTTP.AllowPrivate, AllowNetworks: s.cfg.HTTP.AllowNetworks}
}

// functionsAPI returns the APIs of functions: the owner's, and AWS's, which
// takes signatures of access keys, and the admin token.
func (s *Server) functionsAPI(token string) (owner, aws http.Handler) {
	signed := s.signatures.of("lambda")
	bearer := func(r *http.Request) (given string, ok bool) {
		scheme, given, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		return given, strings.EqualFold(scheme, "Bearer")
	}
	a := lambdaapi.New(lambdaapi.Options{Functions: s.functions, Logger: s.logger.With("room", "functions"),
		Admit: func(r *http.Request) error {
			given, ok := bearer(r)
			if !ok {
				return signed.Check(r)
			}
			if subtle.ConstantTimeCompare([]byte(given), []byte(token)) != 1 {
				return errs.Errorf("functions", errs.Unauthorized, "The security token included in the request is invalid.")
			}
			return nil
		},
		Authorize: func(r *http.Request, body []byte, action, resource string) error {
			if _, ok := bearer(r); ok {
				return nil // Admit has seen the token
			}
			caller, err := signed.Verify(r, body)
			if err != nil {
				return err
			}
			if !caller.May(action, resource) {
				return errs.Errorf("functions", errs.Forbidden, "User: %s is not authorized to perform: %s on resource: %s", caller.ARN, action, resource)
			}
			return nil
		}})
	return a.Owner(), a
}

// invoker returns what custom authorizers, provisioning hooks and aws_lambda call
// functions with.
func (s *Server) invoker() invoker { return invoker{here: s.functions, there: s.awsLookups.Lambda} }

// invoker runs a function that is deployed here, or else one of AWS Lambda.
type invoker struct {
	here  *functions.Service
	there eval.FunctionInvoker // nil: no AWS
}

// Invoke implements eval.FunctionInvoker and its like.
func (i invoker) Invoke(ctx context.Context, function string, payload []byte) ([]byte, error) {
	if i.there == nil || i.here.Has(function) {
		return i.here.Invoke(ctx, function, payload)
	}
	return i.there.Invoke(ctx, function, payload)
}
