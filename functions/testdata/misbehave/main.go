// Command misbehave is a function that does one thing wrong, which its argument
// names.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
)

func main() {
	what := os.Args[1]
	if what == "forkbomb-child" {
		go forkBomb()
		select {}
	}
	api := newAPI()
	switch what {
	case "exit":
		os.Exit(3)
	case "inerror":
		api.post("init/error", `{"errorType":"Custom.Init","errorMessage":"no database"}`)
		os.Exit(1)
	}
	for {
		id := api.next()
		switch what {
		case "loop":
			for i := 0; ; i++ {
				_ = i
			}
		case "silent":
			select {}
		case "forkbomb":
			forkBomb()
		case "eat":
			var held [][]byte
			for range 512 { // no more, should the limit fail
				b := make([]byte, 1<<20)
				for i := range b {
					b[i] = 1
				}
				held = append(held, b)
			}
			api.post("invocation/"+id+"/response", fmt.Sprint(len(held)))
		case "flood":
			api.flood(id)
		case "panic":
			panic("a bug")
		case "skip":
		case "chatter":
			line := strings.Repeat("x", 1000)
			for range 3_000 {
				fmt.Println(line)
			}
			api.post("invocation/"+id+"/response", `"done"`)
		}
	}
}

// runtimeAPI is the Runtime API as a function sees it.
type runtimeAPI struct{ root string }

func newAPI() *runtimeAPI {
	return &runtimeAPI{"http://" + os.Getenv("AWS_LAMBDA_RUNTIME_API") + "/2018-06-01/runtime/"}
}

func (g *runtimeAPI) next() string {
	r, err := http.Get(g.root + "invocation/next")
	if err != nil {
		os.Exit(9)
	}
	_, _ = io.Copy(io.Discard, r.Body)
	r.Body.Close()
	return r.Header.Get("Lambda-Runtime-Aws-Request-Id")
}

func (g *runtimeAPI) post(path, body string) {
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
func (g *runtimeAPI) flood(id string) {
	r, err := http.Post(g.root+"invocation/"+id+"/response", "application/json", &endless{1 << 30})
	if err == nil {
		r.Body.Close()
	}
}

// forkBomb starts processes that start processes.
func forkBomb() {
	for {
		_ = exec.Command("/proc/self/exe", "forkbomb-child").Start()
	}
}
