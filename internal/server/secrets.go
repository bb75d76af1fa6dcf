package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/kv"
	"github.com/weir-iot/weir/internal/seal"
)

// Processes of one Weir have one authority, one owner's access key, and so on.
// They find them in the registry's bucket, sealed with the one key that each
// process is given in a file. Whoever runs the role registry first makes them.

// secretFile is a file of the data folder that processes share.
type secretFile struct {
	path string
	of   roleSet // who has it
	mode os.FileMode
}

func secretFiles() []secretFile {
	both := ingestRole | registryRole
	return []secretFile{
		{filepath.Join(caFolder, auth.CAKeyFile), both, 0o600}, // before the certificate
		{filepath.Join(caFolder, auth.CAFile), both, 0o644},
		{control.AccessKeyFile, both, 0o600},
		{AzureFile, both, 0o600},
		{ownerKeyFile, both, 0o600},
		{ownerCertFile, both, 0o644},
		{control.TokenFile, registryRole, 0o600},
	}
}

const (
	caFolder   = "ca"
	sealFile   = "seal.key"
	secretsKey = "shared" // of the bucket; a JSON object of files and their content, sealed for this name

	secretsPatience = time.Minute
	secretsPoll     = 100 * time.Millisecond
)

// sealKey is where the sealing key is.
func (s *Server) sealKey() string {
	if s.cfg.SealKeyFile != "" {
		return s.cfg.SealKeyFile
	}
	return filepath.Join(s.dataDir, sealFile)
}

// openSecrets opens the sealing key and, where there may be other processes,
// takes over what they share, or makes it for them.
func (s *Server) openSecrets(ctx context.Context) error {
	if s.cfg.NATS.URL == "" {
		return s.openSeal()
	}
	b, err := kv.Open(ctx, s.log, kv.Config{Name: "registry"})
	if err != nil {
		return err
	}
	e, err := s.sharedSecrets(ctx, b)
	if err != nil {
		return err
	}
	if len(e.Value) > 0 {
		return s.takeSecrets(e.Value)
	}
	if err := s.openSeal(); err != nil {
		return err
	}
	made, err := s.makeSecrets()
	if err != nil {
		return err
	}
	s.share = func(ctx context.Context) error {
		if _, err := b.Update(ctx, secretsKey, s.box.Seal(secretsKey, made), 0); err != nil {
			if errs.Is(err, errs.Conflict) {
				return errors.New("another process has made the authority and the keys of this Weir at the same moment: remove the data folder, which is new, and start again with the other's key file (seal_key_file)")
			}
			return fmt.Errorf("sharing the secrets: %w", err)
		}
		return nil
	}
	return nil
}

func (s *Server) openSeal() (err error) {
	s.box, err = seal.Open(s.sealKey())
	return err
}

// sharedSecrets reads what is shared; nothing where this process is to make it.
// One that is not waits until it is there.
func (s *Server) sharedSecrets(ctx context.Context, b *kv.Bucket) (kv.Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, secretsPatience)
	defer cancel()
	for told := false; ; {
		e, err := b.Get(ctx, secretsKey)
		if err == nil || !errs.Is(err, errs.NotFound) || s.roles&registryRole != 0 {
			if errs.Is(err, errs.NotFound) {
				err = nil
			}
			return e, err
		}
		if !told {
			s.logger.Info("waiting for a process with the role registry, which makes the authority and keys")
			told = true
		}
		select {
		case <-time.After(secretsPoll):
		case <-ctx.Done():
			return e, errors.New("there is no authority yet: start a process with the role registry, which makes it")
		}
	}
}

// takeSecrets writes what others share into the data folder.
func (s *Server) takeSecrets(sealed []byte) error {
	key := s.sealKey()
	if _, err := os.Stat(key); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is missing: this Weir has a sealing key already. Copy %s from the data folder of a process with the role registry to there, mode 0600, or name it in seal_key_file", key, sealFile)
	}
	if err := s.openSeal(); err != nil {
		return err
	}
	plain, err := s.box.Open(secretsKey, sealed)
	if err != nil {
		return fmt.Errorf("%s is not the sealing key of this Weir: copy that of a process with the role registry", key)
	}
	var files map[string][]byte
	if err := json.Unmarshal(plain, &files); err != nil {
		return fmt.Errorf("the shared secrets cannot be read: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(s.dataDir, caFolder), 0o700); err != nil {
		return err
	}
	for _, f := range secretFiles() {
		content, path := files[f.path], filepath.Join(s.dataDir, f.path)
		if f.of&s.roles == 0 || len(content) == 0 {
			continue
		}
		have, err := os.ReadFile(path)
		switch {
		case err == nil && bytes.Equal(have, content):
			continue
		case err == nil:
			return fmt.Errorf("%s is not what the other processes of this Weir have: this data folder was another's. Move it away, or give this process a new folder", path)
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
		if err := writeWhole(path, content, f.mode); err != nil {
			return err
		}
	}
	return nil
}

// makeSecrets makes what is to be shared, or takes what the data folder has, and
// returns it as it is sealed.
func (s *Server) makeSecrets() ([]byte, error) {
	ca, err := auth.OpenCA(filepath.Join(s.dataDir, caFolder), s.cfg.TLS.Names, s.now)
	if err == nil {
		_, _, err = ownerCertificate(ca, s.dataDir, s.now())
	}
	_, terr := control.OpenToken(s.dataDir)
	_, kerr := control.OpenAccessKey(s.dataDir)
	_, aerr := openAzurePolicies(filepath.Join(s.dataDir, AzureFile))
	if err := errors.Join(err, terr, kerr, aerr); err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for _, f := range secretFiles() {
		if files[f.path], err = os.ReadFile(filepath.Join(s.dataDir, f.path)); err != nil {
			return nil, err
		}
	}
	return json.Marshal(files)
}

// writeWhole leaves the whole file or none, also after a power cut.
func writeWhole(path string, content []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err := errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
