package functions_test

import (
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
)

// guestAPI is the Runtime API as a function sees it.
type guestAPI struct{ root string }

func newGuestAPI() *guestAPI {
	return &guestAPI{"http://" + os.Getenv("AWS_LAMBDA_RUNTIME_API") + "/2018-06-01/runtime/"}
}

func (g *guestAPI) next() string {
	r, err := http.Get(g.root + "invocation/next")
	if err != nil {
		os.Exit(9)
	}
	_, _ = io.Copy(io.Discard, r.Body)
	r.Body.Close()
	return r.Header.Get("Lambda-Runtime-Aws-Request-Id")
}

func (g *guestAPI) post(path, body string) {
	r, err := http.Post(g.root+path, "application/json", strings.NewReader(body))
	if err == nil {
		_, _ = io.Copy(io.Discard, r.Body)
		r.Body.Close()
	}
}

type endless struct{ left int64 }

func (e *endless) Read(p []byte) (int, error) {
	if e.left <= 0 {
		return 0, io.EOF
	}
	for i := range p {
		p[i] = '1'
	}
	e.left -= int64(len(p))
	return len(p), nil
}

// flood answers with a gigabyte.
func (g *guestAPI) flood(id string) {
	r, err := http.Post(g.root+"invocation/"+id+"/response", "application/json", &endless{1 << 30})
	if err == nil {
		r.Body.Close()
	}
}

// forkBomb starts processes that start processes, each of them idle: the number
// is what hurts.
func forkBomb() {
	for {
		cmd := exec.Command("bash", "-c", "f() { f & f & wait; }; f")
		_ = cmd.Start()
	}
}

// answering returns a WebAssembly module that writes text to its standard output
// and reads nothing; see wasm_test.go for what the bytes say.
func answering(text string) []byte { return module(0, text) }
