// Command read-events reads Weir's log as a data team would, with any NATS
// client: raw payloads, in order, from the beginning and then as they come.
//
//	eval "$(weir env)"
//	go run ./examples/read-events 'ev.*.m.factory.>'
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func main() {
	nc, err := nats.Connect(os.Getenv("NATS_URL"), nats.UserCredentials(os.Getenv("NATS_CREDS")))
	check(err)
	js, err := jetstream.New(nc)
	check(err)
	c, err := js.OrderedConsumer(context.Background(), "EVENTS-0", jetstream.OrderedConsumerConfig{FilterSubjects: os.Args[1:]})
	check(err)
	messages, err := c.Messages()
	check(err)
	for {
		m, err := messages.Next()
		check(err)
		fmt.Println(m.Subject(), m.Headers(), string(m.Data()))
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
