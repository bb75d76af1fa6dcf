package functions

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/kv"
)

// codes keeps packages by the hash of their content: in pieces in the bucket,
// where every process finds them, and unpacked in a folder, from where they run.
type codes struct {
	bucket *kv.Bucket
	dir    string

	mu sync.Mutex // one package is unpacked at a time
}

// piece is how much of a package one key holds, in bytes.
const piece = 768 << 10

func pieceKey(sum string, n int64) string { return fmt.Sprintf("code.%s.%d", sum, n) }

func hash(zipped []byte) string {
	sum := sha256.Sum256(zipped)
	return hex.EncodeToString(sum[:])
}

// put stores a package.
func (c *codes) put(ctx context.Context, zipped []byte) (sum string, err error) {
	sum = hash(zipped)
	for n := int64(0); n*piece < int64(len(zipped)); n++ {
		part := zipped[n*piece : min((n+1)*piece, int64(len(zipped)))]
		if have, err := c.bucket.Get(ctx, pieceKey(sum, n)); err == nil && bytes.Equal(have.Value, part) {
			continue
		}
		if _, err := c.bucket.Commit(ctx, []kv.Change{{Key: pieceKey(sum, n), Value: part, Any: true}}); err != nil {
			return "", err
		}
	}
	return sum, nil
}

// get returns a package. Errors: errs.NotFound, errs.Internal where it is not
// what it was.
func (c *codes) get(ctx context.Context, sum string, size int64) ([]byte, error) {
	out := make([]byte, 0, size)
	for n := int64(0); n*piece < size; n++ {
		e, err := c.bucket.Get(ctx, pieceKey(sum, n))
		if err != nil {
			return nil, err
		}
		out = append(out, e.Value...)
	}
	if hash(out) != sum {
		return nil, errs.Errorf("functions.code", errs.Internal, "the package %s is damaged", sum)
	}
	return out, nil
}

// drop removes a package that no version names any more.
func (c *codes) drop(ctx context.Context, sum string, size int64) error {
	for n := int64(0); n*piece < size; n++ {
		if _, err := c.bucket.Commit(ctx, []kv.Change{{Key: pieceKey(sum, n), Any: true}}); err != nil {
			return err
		}
	}
	return os.RemoveAll(filepath.Join(c.dir, sum))
}

// folder returns where a package is unpacked, and unpacks it where it is not.
func (c *codes) folder(ctx context.Context, sum string, size int64) (string, error) {
	dir := filepath.Join(c.dir, sum)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	zipped, err := c.get(ctx, sum, size)
	if err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(c.dir, "new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := unpack(zipped, tmp); err != nil {
		return "", err
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return "", err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return "", err
	}
	return dir, nil
}

// unpack writes the files of a package below dir. Files can be read by everyone,
// as functions have users of their own. Nothing is written outside of dir.
// Errors: errs.Invalid, errs.TooLarge.
func unpack(zipped []byte, dir string) error {
	const op = "functions.unpack"
	r, err := zip.NewReader(bytes.NewReader(zipped), int64(len(zipped)))
	if err != nil {
		return errs.Errorf(op, errs.Invalid, "the package is no zip file: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if len(r.File) > 100_000 {
		return errs.Errorf(op, errs.TooLarge, "the package has %d files", len(r.File))
	}
	left := int64(maxUnpacked)
	type link struct{ name, to string }
	var links []link // last, so that no file is written through one
	for _, f := range r.File {
		name := strings.TrimSuffix(path.Clean("/" + f.Name)[1:], "/")
		if strings.Contains(f.Name, `\`) || !filepath.IsLocal(strings.TrimSuffix(f.Name, "/")) || strings.ContainsRune(name, 0) {
			return errs.Errorf(op, errs.Invalid, "the package has a file outside of its folder: %.255q", f.Name)
		}
		if f.Mode().IsDir() {
			if err := root.MkdirAll(name, 0o755); err != nil {
				return errs.E(op, errs.Invalid, err)
			}
			continue
		}
		if d := path.Dir(name); d != "." {
			if err := root.MkdirAll(d, 0o755); err != nil {
				return errs.E(op, errs.Invalid, err)
			}
		}
		content, err := f.Open()
		if err != nil {
			return errs.Errorf(op, errs.Invalid, "%.255q: %w", f.Name, err)
		}
		switch {
		case f.Mode()&fs.ModeSymlink != 0:
			to, err := io.ReadAll(io.LimitReader(content, 4096))
			if err != nil {
				return errs.Errorf(op, errs.Invalid, "%.255q: %w", f.Name, err)
			}
			if !filepath.IsLocal(path.Join(path.Dir(name), string(to))) || path.IsAbs(string(to)) {
				return errs.Errorf(op, errs.Invalid, "%.255q is a link out of the package", f.Name)
			}
			links = append(links, link{name, string(to)})
		case f.Mode().IsRegular():
			mode := fs.FileMode(0o644)
			if f.Mode()&0o111 != 0 || name == "bootstrap" {
				mode = 0o755
			}
			out, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
			if err != nil {
				return errs.Errorf(op, errs.Invalid, "%.255q: %w", f.Name, err)
			}
			n, err := io.Copy(out, io.LimitReader(content, left+1))
			if left -= n; left < 0 {
				err = errs.Errorf(op, errs.TooLarge, "the package unpacks to more than %d bytes", maxUnpacked)
			}
			if err = errors.Join(err, out.Chmod(mode), out.Close()); err != nil {
				if errs.Is(err, errs.TooLarge) {
					return err
				}
				return errs.Errorf(op, errs.Invalid, "%.255q: %w", f.Name, err)
			}
		default:
			return errs.Errorf(op, errs.Invalid, "%.255q is neither file, folder nor link", f.Name)
		}
		content.Close()
	}
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = root.Chmod(name, 0o755) // whatever the umask is
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, l := range links {
		if err := root.Symlink(l.to, l.name); err != nil {
			return errs.Errorf(op, errs.Invalid, "%.255q: %w", l.name, err)
		}
	}
	return nil
}
