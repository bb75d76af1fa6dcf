// Command reference writes the reference of the actions to the file it is given.
package main

import (
	"log"
	"os"

	"github.com/weir-iot/weir/actions/install"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: reference <file>")
	}
	if err := os.WriteFile(os.Args[1], []byte(install.Reference()), 0o644); err != nil {
		log.Fatal(err)
	}
}
