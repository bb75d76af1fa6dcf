//go:build wasip1

// Command wasm is a function as a WebAssembly module: the event is on its
// standard input, the answer goes to its standard output.
//
//	GOOS=wasip1 GOARCH=wasm go build -o build/main.wasm ./examples/functions/wasm
//	weir function deploy level --runtime wasm --code build/main.wasm
package main

import (
	"encoding/json"
	"fmt"
	"os"
)

func main() {
	var event struct {
		Device string  `json:"device"`
		Level  float64 `json:"level"`
	}
	if err := json.NewDecoder(os.Stdin).Decode(&event); err != nil {
		fmt.Fprintln(os.Stderr, "not a reading:", err)
		os.Exit(1)
	}
	_ = json.NewEncoder(os.Stdout).Encode(map[string]any{"device": event.Device, "alarm": event.Level > 0.9})
}
