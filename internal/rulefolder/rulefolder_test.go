package rulefolder

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestIsRule(t *testing.T) {
	for name, want := range map[string]bool{"a.json": true, "d/a.yaml": true, "a.yml": true, "a.rule_test.yaml": false, "a.rule_test.yml": false, "a.txt": false, ".a.yaml": false, "a.yaml~": false, "#a.yaml": false, "README.md": false} {
		if IsRule(name) != want {
			t.Errorf("%s: %v", name, !want)
		}
	}
}

func TestReadFileIsBounded(t *testing.T) {
	name := filepath.Join(t.TempDir(), "a.json")
	write(t, name, string(make([]byte, MaxFile+1)))
	if _, err := ReadFile(name); err == nil {
		t.Error("a huge file is read")
	}
}

func TestWatch(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a.yaml"), filepath.Join(dir, "b.json")
	write(t, a, "1")
	write(t, filepath.Join(dir, "notes.txt"), "x")
	w, err := Watch(dir)
	if err != nil {
		t.Fatal(err)
	}
	type told struct{ name, content string }
	tell := make(chan told, 100)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- w.Run(ctx, func(f File) { tell <- told{f.Name, string(f.Content)} }, func(n string) { tell <- told{n, "gone"} }, func(err error) { t.Error(err) })
	}()
	next := func(want told) {
		t.Helper()
		select {
		case got := <-tell:
			if got != want {
				t.Fatalf("got %v, want %v", got, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("never told of %v", want)
		}
	}
	next(told{a, "1"})
	write(t, b, "2")
	next(told{b, "2"})
	// As editors save: another file, renamed over the old one.
	tmp := filepath.Join(dir, ".a.swp")
	write(t, tmp, "3")
	if err := os.Rename(tmp, a); err != nil {
		t.Fatal(err)
	}
	next(told{a, "3"})
	write(t, b, "2") // the same content again is no change
	if err := os.Remove(a); err != nil {
		t.Fatal(err)
	}
	next(told{a, "gone"})
	write(t, a, "3") // back: told again
	next(told{a, "3"})
	cancel()
	if err := <-done; err != nil || len(tell) != 0 {
		t.Errorf("%v, %d more", err, len(tell))
	}
}

func TestWatchOfNoFolder(t *testing.T) {
	if _, err := Watch(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("no error")
	}
}
