// Command reader is a module that answers with what it can read of the files its
// event names.
package main

import (
	"encoding/json"
	"os"
)

func main() {
	var paths, found []string
	if err := json.NewDecoder(os.Stdin).Decode(&paths); err != nil {
		os.Exit(1)
	}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err == nil {
			found = append(found, string(b))
		}
		if os.WriteFile(p+".new", b, 0o644) == nil {
			found = append(found, "wrote "+p+".new")
		}
	}
	_ = json.NewEncoder(os.Stdout).Encode(found)
}
