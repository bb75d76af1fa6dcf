package functions_test

import (
	"archive/zip"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weir-iot/weir/functions"
	"github.com/weir-iot/weir/test/npm"
)

// A handler under AWS's own runtime interface client, as npm has it.
func TestNodeRuntimeInterfaceClient(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles a package of npm")
	}
	modules := npm.Built(t, "aws-lambda-ric", "node", "cmake", "g++", "make", "autoreconf", "libtoolize")
	if _, err := os.Stat("/usr/bin/node"); err != nil {
		t.Skip("node is not in /usr/bin, where a sandbox finds it")
	}
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	add := func(name, text string, mode fs.FileMode) {
		h := &zip.FileHeader{Name: name, Method: zip.Deflate}
		h.SetMode(mode)
		out, err := w.CreateHeader(h)
		if err == nil {
			_, err = out.Write([]byte(text))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	add("index.js", read(t, "../examples/functions/node/index.js"), 0o644)
	ric := filepath.Join(modules, "aws-lambda-ric")
	for _, part := range []string{"bin", "dist", "package.json", "src", "build"} {
		err := filepath.WalkDir(filepath.Join(ric, part), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !d.Type().IsRegular() || strings.Contains(path, "obj.target") {
				return err
			}
			name, err := filepath.Rel(modules, path)
			if err == nil {
				add("node_modules/"+name, read(t, path), 0o755)
			}
			return err
		})
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	s, _ := open(t, nil)
	deploy(t, s, "greet", functions.Config{Runtime: "provided", Memory: 256, Handler: "index.handler",
		Command: []string{"node", "node_modules/aws-lambda-ric/bin/index.mjs", "index.handler"}}, b.Bytes())
	for range 3 {
		if r := invoke(t, s, "greet", `{"name":"weir"}`); string(r.Payload) != `{"hello":"weir","request":"`+r.ID+`"}` || !strings.Contains(string(r.Log), "greeting weir") {
			t.Fatalf("%s %s %s", r.Error, r.Payload, r.Log)
		}
	}
	if r := invoke(t, s, "greet", `{}`); r.Error == "" || !strings.Contains(string(r.Payload), "name is missing") {
		t.Errorf("%s %s", r.Error, r.Payload)
	}
}
