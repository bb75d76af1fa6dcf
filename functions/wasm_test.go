package functions_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weir-iot/weir/functions"
)

// The first call alone may wait for its module, where it is not ready yet.
func TestModulesStayLoaded(t *testing.T) {
	s, _ := open(t, nil)
	deploy(t, s, "f", functions.Config{Runtime: "wasm"}, zipped(t, file{"main.wasm", string(answering("1")), 0o644}))
	invoke(t, s, "f", `1`)
	if r := invoke(t, s, "f", `1`); strings.Contains(string(r.Log), "Init Duration") {
		t.Errorf("%s", r.Log)
	}
}

// No call sees what an earlier one left in memory, where it is used again.
func TestModulesForget(t *testing.T) {
	s, _ := open(t, nil)
	for _, mode := range []int{5, 6} {
		name := fmt.Sprintf("m%d", mode)
		deploy(t, s, name, functions.Config{Runtime: "wasm"}, zipped(t, file{"main.wasm", string(module(mode, "")), 0o644}))
		for range 50 {
			if r := invoke(t, s, name, `"canary-canary"`); string(r.Payload) != strings.Repeat("\x00", 16) {
				t.Fatalf("mode %d: %q", mode, r.Payload)
			}
		}
	}
}

// module returns a WebAssembly module with WASI. mode 0: it writes text. mode 1:
// it writes what it reads. mode 2: it loops for ever. mode 3: it grows its memory
// until it may not and traps then. mode 4: it writes text for ever. mode 5: it
// writes the 16 bytes it finds in its memory, then reads its input over them. mode
// 6: likewise in memory it has grown.
func module(mode int, text string) []byte {
	u := func(n int) (b []byte) { // unsigned LEB128
		for {
			c := byte(n & 0x7f)
			if n >>= 7; n == 0 {
				return append(b, c)
			}
			b = append(b, c|0x80)
		}
	}
	s := func(n int) (b []byte) { // signed LEB128, of n >= 0
		for {
			c := byte(n & 0x7f)
			if n >>= 7; n == 0 && c&0x40 == 0 {
				return append(b, c)
			}
			b = append(b, c|0x80)
		}
	}
	cat := func(parts ...[]byte) (b []byte) {
		for _, p := range parts {
			b = append(b, p...)
		}
		return b
	}
	str := func(x string) []byte { return append(u(len(x)), x...) }
	section := func(id byte, body []byte) []byte { return cat([]byte{id}, u(len(body)), body) }
	i32 := func(n int) []byte { return append([]byte{0x41}, s(n)...) }
	store := func(at, v int) []byte { return cat(i32(at), i32(v), []byte{0x36, 2, 0}) }
	// fd_read is function 0, fd_write 1: (fd, iovs, count, out) -> errno.
	call := func(f byte, fd, iov, out int) []byte {
		return cat(i32(fd), i32(iov), i32(1), i32(out), []byte{0x10, f, 0x1a})
	}
	const data, room = 1024, 60000
	var code []byte
	switch mode {
	case 0:
		code = cat(store(0, data), store(4, len(text)), call(1, 1, 0, 8))
	case 1:
		code = cat(store(0, data), store(4, room), call(0, 0, 0, 8),
			i32(4), i32(8), []byte{0x28, 2, 0}, []byte{0x36, 2, 0}, call(1, 1, 0, 12))
	case 2:
		code = []byte{0x03, 0x40, 0x0c, 0, 0x0b} // loop br 0 end
	case 3:
		// loop; memory.grow 16; i32.const -1; i32.eq; if unreachable end; br 0; end
		code = cat([]byte{0x03, 0x40}, i32(16), []byte{0x40, 0}, []byte{0x41, 0x7f}, []byte{0x46, 0x04, 0x40, 0x00, 0x0b, 0x0c, 0, 0x0b})
	case 4:
		code = cat(store(0, data), store(4, room), []byte{0x03, 0x40}, call(1, 1, 0, 8), []byte{0x0c, 0, 0x0b})
	case 5, 6:
		at := data
		if mode == 6 {
			at = 2 << 16
			code = cat(i32(1), []byte{0x40, 0, 0x1a}) // memory.grow, drop
		}
		code = cat(code, store(0, at), store(4, 16), call(1, 1, 0, 8), call(0, 0, 0, 8))
	}
	body := cat([]byte{0}, code, []byte{0x0b})
	imp := func(name string) []byte { return cat(str("wasi_snapshot_preview1"), str(name), []byte{0, 0}) }
	return cat([]byte("\x00asm\x01\x00\x00\x00"),
		section(1, []byte{2, 0x60, 4, 0x7f, 0x7f, 0x7f, 0x7f, 1, 0x7f, 0x60, 0, 0}),
		section(2, cat([]byte{2}, imp("fd_read"), imp("fd_write"))),
		section(3, []byte{1, 1}),
		section(5, []byte{1, 0, 2}),
		section(7, cat([]byte{2}, str("memory"), []byte{2, 0}, str("_start"), []byte{0, 2})),
		section(10, cat([]byte{1}, u(len(body)), body)),
		section(11, cat([]byte{1, 0}, i32(data), []byte{0x0b}, str(text))))
}

// answering returns a WebAssembly module that writes text to its standard output
// and reads nothing.
func answering(text string) []byte { return module(0, text) }

// A module reads the folders it was granted, and nothing else: no other file, none
// that a link leads to, and it writes nowhere.
func TestModulesReadWhatTheyAreGranted(t *testing.T) {
	dir := t.TempDir()
	granted, other := filepath.Join(dir, "granted"), filepath.Join(dir, "other")
	for _, path := range []string{granted, other} {
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(path, "file"), []byte(filepath.Base(path)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(other, "file"), filepath.Join(granted, "link")); err != nil {
		t.Fatal(err)
	}
	s, _ := open(t, nil)
	pkg := zipped(t, file{"main.wasm", read(t, build(t, "reader.wasm", "./testdata/reader", "GOOS=wasip1", "GOARCH=wasm")), 0o644})
	event, err := json.Marshal([]string{granted + "/file", granted + "/link", granted + "/../other/file", other + "/file", "/etc/passwd"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		mounts []string
		want   string
	}{{nil, "null\n"}, {[]string{granted}, `["granted"]` + "\n"}} {
		d := deploy(t, s, "reader", functions.Config{Runtime: "wasm", Mounts: c.mounts}, pkg)
		if r := invoke(t, s, "reader", string(event)); string(r.Payload) != c.want || len(d.Warnings) != len(c.mounts) {
			t.Errorf("%v: %s %s, %v", c.mounts, r.Error, r.Payload, d.Warnings)
		}
	}
}
