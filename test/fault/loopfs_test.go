package fault

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestPowerCutKeepsOnlyWhatWasSynced(t *testing.T) {
	l := NewLoopFS(t, 64<<20)
	data := bytes.Repeat([]byte("x"), 100_000)
	for _, name := range []string{"synced", "unsynced"} {
		f, err := os.Create(filepath.Join(l.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(data); err != nil {
			t.Fatal(err)
		}
		if name == "synced" {
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	l.PowerCut()
	if err := os.WriteFile(filepath.Join(l.Dir, "late"), data, 0o600); err == nil {
		t.Error("a file system without power takes writes")
	}
	l.Remount()
	if b, err := os.ReadFile(filepath.Join(l.Dir, "synced")); err != nil || !bytes.Equal(b, data) {
		t.Errorf("synced data: %d bytes, %v", len(b), err)
	}
	if b, _ := os.ReadFile(filepath.Join(l.Dir, "unsynced")); len(b) > 0 {
		t.Errorf("%d unsynced bytes survived", len(b))
	}
}

func TestFillAndFree(t *testing.T) {
	l := NewLoopFS(t, 64<<20)
	name := filepath.Join(l.Dir, "file")
	l.Fill(0)
	if err := os.WriteFile(name, make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("on a full disk: %v", err)
	}
	l.Free()
	if err := os.WriteFile(name, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatalf("with space again: %v", err)
	}
}
