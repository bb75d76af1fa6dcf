package server

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/ingest/azure"
	"github.com/weir-iot/weir/ingest/https"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/kv"
	"github.com/weir-iot/weir/shadow"
)

// AzureFile is the name, in the data folder, of the hub's shared access policies.
const AzureFile = "azure-hub.json"

// openAzure opens the dialect of Azure IoT Hub: its devices come to the same
// listeners, and their twins are shadows.
func (s *Server) openAzure(ctx context.Context) error {
	b, err := kv.Open(ctx, s.log, kv.Config{Name: "azure"})
	if err != nil {
		return err
	}
	s.endpoints.AzureFile = filepath.Join(s.dataDir, AzureFile)
	policies, err := openAzurePolicies(s.endpoints.AzureFile)
	if err != nil {
		return err
	}
	s.azure, err = azure.New(azure.Options{
		Bucket: b, Sealer: s.box, Policies: policies, Hosts: slices.Concat(s.cfg.TLS.Names, []string{"localhost", "127.0.0.1", "::1"}),
		Twins: twins{s}, Log: s.log, Retention: s.cfg.Events.MaxAge, Issued: s.azureIssued,
		Conn: s.services.conn(), Others: func() int { return s.gateway.Others() }, First: func() bool { return s.gateway.First() },
		Logger: s.logger.With("room", "azure"), Now: s.now,
	})
	if err != nil {
		return err
	}
	s.methods.Foreign = s.azure
	s.azureREST = s.azure.REST(azure.RESTOptions{
		SNI: func(r *http.Request) string {
			if st := https.TLSState(r); st != nil {
				return st.ServerName
			}
			return ""
		},
		Known: https.Known,
	})
	return nil
}

// azureService returns who answers requests of a path; nil: not the dialect.
func (s *Server) azureService(path string) http.Handler {
	if azure.Owns(path) {
		return s.azureREST
	}
	return nil
}

// openAzurePolicies returns the hub's policies, and makes them at the first
// start. The file has mode 0600; one that others can read is refused.
func openAzurePolicies(path string) ([]azure.Policy, error) {
	list, err := ReadAzurePolicies(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return list, err
	}
	list = azure.NewPolicies()
	text, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return nil, err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), AzureFile+".*") // 0600
	if err != nil {
		return nil, err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(append(text, '\n'))
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return nil, err
	}
	return list, os.Rename(tmp.Name(), path)
}

// ReadAzurePolicies reads the hub's policies from the file at path.
func ReadAzurePolicies(path string) ([]azure.Policy, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others (mode %04o): run chmod 600 on it", path, mode)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var list []azure.Policy
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("%s holds no policies of the Azure hub: remove it and restart Weir to get new ones: %w", path, err)
	}
	return list, nil
}

// azureIssued reports whether an active authority of the registry issued leaf.
func (s *Server) azureIssued(leaf *x509.Certificate) bool {
	return slices.ContainsFunc(s.directory.CAsOf(leaf), func(ca *auth.CA509) bool {
		return ca.Status == auth.Active && leaf.CheckSignatureFrom(ca.Certificate) == nil
	})
}

// twins keeps the dialect's twins as shadows.
type twins struct{ s *Server }

func section(s shadow.Section) azure.Section {
	return azure.Section{State: s.State, Metadata: s.Metadata, Version: s.Version}
}

func twinOf(d *shadow.Document, err error) (*azure.Twin, error) {
	if err != nil {
		return nil, err
	}
	if d.Deleted {
		return nil, errs.Errorf("server.Twin", errs.NotFound, "there is no twin")
	}
	return &azure.Twin{Version: d.Version, Time: d.Time, Desired: section(d.Desired), Reported: section(d.Reported), Tags: section(d.Tags)}, nil
}

// Read implements azure.Twins.
func (t twins) Read(ctx context.Context, device, module string) (*azure.Twin, error) {
	return twinOf(t.s.shadows.Read(ctx, device, module))
}

// Change implements azure.Twins.
func (t twins) Change(ctx context.Context, device, module string, c azure.TwinChange, by string) (*azure.Twin, error) {
	who := shadow.Who{Principal: by, Via: "azure"}
	if !strings.Contains(by, " ") {
		who = shadow.Who{ClientID: by, Principal: "azure:" + by, Via: "azure"}
	}
	return twinOf(t.s.shadows.Change(ctx, device, module, shadow.Change{
		Desired: c.Desired, Reported: c.Reported, Tags: c.Tags, Replace: c.Replace, Version: c.Version,
	}, who))
}

// Delete implements azure.Twins. The shadow of a thing that is in the registry
// stays: it is the thing's.
func (t twins) Delete(ctx context.Context, device, module string) error {
	if _, err := t.s.things.Thing(device); err == nil && module == "" {
		return nil
	}
	_, err := t.s.shadows.Delete(ctx, device, module, shadow.Who{Via: "azure"})
	return err
}
