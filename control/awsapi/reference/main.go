// Command reference writes the table of the AWS APIs' operations into the file it
// is given.
package main

import (
	"log"
	"os"

	"github.com/weir-iot/weir/control/awsapi"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: reference <file>")
	}
	old, err := os.ReadFile(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	text, err := awsapi.WithReference(string(old))
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile(os.Args[1], []byte(text), 0o644); err != nil {
		log.Fatal(err)
	}
}
