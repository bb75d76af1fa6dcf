package seal

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

func TestSealedOnceOpensAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "seal.key")
	var wg sync.WaitGroup
	boxes := make([]*Box, 8)
	for i := range boxes { // processes that start together get one key
		wg.Go(func() {
			b, err := Open(file)
			if err != nil {
				t.Error(err)
			}
			boxes[i] = b
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatal(info, err)
	}
	sealed := boxes[0].Seal("a", []byte("secret"))
	if bytes.Contains(sealed, []byte("secret")) || bytes.Equal(sealed, boxes[0].Seal("a", []byte("secret"))) {
		t.Fatal("plain or repeated")
	}
	for i, b := range boxes {
		if plain, err := b.Open("a", sealed); err != nil || string(plain) != "secret" {
			t.Fatal(i, err)
		}
	}
	if _, err := boxes[0].Open("b", sealed); err == nil {
		t.Fatal("opened for another name")
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if _, err := boxes[0].Open("a", bad); err == nil {
			t.Fatalf("opened with byte %d changed", i)
		}
	}
}

func TestKeyFilesThatAreRefused(t *testing.T) {
	dir := t.TempDir()
	open := filepath.Join(dir, "open")
	short := filepath.Join(dir, "short")
	link := filepath.Join(dir, "link")
	for file, mode := range map[string]os.FileMode{open: 0o644, short: 0o600} {
		n := keySize
		if file == short {
			n = 5
		}
		if err := os.WriteFile(file, make([]byte, n), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(open, link); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{open, short, link, filepath.Join(dir, "no", "folder")} {
		if _, err := Open(file); err == nil {
			t.Errorf("%s was taken", file)
		}
	}
}
