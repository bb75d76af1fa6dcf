// Package rulefolder reads a folder of rule files, and again when one of them
// changes. It stands before any message: what it reads goes to the rule store,
// as if its owner had applied it.
package rulefolder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// MaxFile bounds a rule file: a document may have 256 KiB, its YAML more.
const MaxFile = 1 << 20

// debounce is how long the folder must be quiet: editors write a file in
// several steps.
const debounce = 150 * time.Millisecond

// File is one rule file.
type File struct {
	Name    string // path, for messages
	Content []byte
}

// IsRule reports whether name is one of a rule file: .json, .yaml or .yml, not
// hidden, not an editor's own, not one with rule tests (hot.rule_test.yaml).
func IsRule(name string) bool {
	base := filepath.Base(name)
	if strings.HasPrefix(base, ".") || strings.HasPrefix(base, "#") || strings.HasSuffix(base, "~") {
		return false
	}
	switch ext := filepath.Ext(base); ext {
	case ".json", ".yaml", ".yml":
		return !strings.HasSuffix(strings.TrimSuffix(base, ext), ".rule_test")
	}
	return false
}

// ReadFile reads one rule file.
func ReadFile(name string) (File, error) {
	f, err := os.Open(name)
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return File{}, err
	}
	if len(b) > MaxFile {
		return File{}, fmt.Errorf("%s: larger than %d bytes: not a rule file", name, MaxFile)
	}
	return File{Name: name, Content: b}, nil
}

// Read returns the rule files of the folder dir, sorted by name. Folders below
// it are not read.
func Read(dir string) ([]File, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []File
	for _, e := range entries {
		if e.IsDir() || !IsRule(e.Name()) {
			continue
		}
		f, err := ReadFile(filepath.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // gone since
		}
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// Watcher tells of the files of one folder.
type Watcher struct {
	dir    string
	notify *fsnotify.Watcher
	seen   map[string][]byte // content last told, by name
}

// Watch begins to watch dir. Nothing is told before Run.
func Watch(dir string) (*Watcher, error) {
	n, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	if err := n.Add(dir); err != nil {
		n.Close()
		return nil, fmt.Errorf("rules folder %s: %w", dir, err)
	}
	return &Watcher{dir: dir, notify: n, seen: map[string][]byte{}}, nil
}

// Run calls changed for each file there is, then for each that is new or has
// another content, and removed for each that is gone, until ctx ends. Trouble
// with the folder goes to failed, and reading goes on.
func (w *Watcher) Run(ctx context.Context, changed func(File), removed func(name string), failed func(error)) error {
	defer w.notify.Close()
	w.read(changed, removed, failed)
	quiet := time.NewTimer(time.Hour)
	quiet.Stop()
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-w.notify.Events:
			if !ok {
				return errors.New("the watch on the rules folder has ended")
			}
			// Whatever its name: a folder mounted from a Kubernetes ConfigMap changes
			// by a link beside the files. Contents decide.
			quiet.Reset(debounce)
		case err, ok := <-w.notify.Errors:
			if ok {
				failed(err)
				quiet.Reset(debounce) // an overflow: events are missing
			}
		case <-quiet.C:
			w.read(changed, removed, failed)
		}
	}
}

// Close ends a watch that was never run.
func (w *Watcher) Close() error { return w.notify.Close() }

func (w *Watcher) read(changed func(File), removed func(string), failed func(error)) {
	files, err := Read(w.dir)
	if err != nil {
		failed(err)
		return
	}
	there := map[string]bool{}
	for _, f := range files {
		there[f.Name] = true
		if old, ok := w.seen[f.Name]; ok && bytes.Equal(old, f.Content) {
			continue
		}
		w.seen[f.Name] = f.Content
		changed(f)
	}
	for name := range w.seen {
		if !there[name] {
			delete(w.seen, name)
			removed(name)
		}
	}
}
