package jet

import "strings"

// readerServices are the requests a reader may make of WEIR. They are service
// imports: an answer goes back the way the request came, whatever reply subject
// the reader names.
var readerServices = []string{
	"$JS.API.STREAM.INFO.*",
	"$JS.API.CONSUMER.INFO.*.*",
	"$JS.API.CONSUMER.NAMES.*",
	"$JS.API.CONSUMER.LIST.*",
	"$JS.API.CONSUMER.MSG.NEXT.*.*",
	"$JS.API.DIRECT.GET.>",
	"$JS.ACK.>",
}

func readerExports() string {
	var b strings.Builder
	for _, s := range readerServices {
		b.WriteString(`{ service: "` + s + `", response: stream, accounts: [` + readerAccount + `] }, `)
	}
	return b.String()
}

func readerImports() string {
	var b strings.Builder
	for _, s := range readerServices {
		b.WriteString(`{ service: { account: ` + weirAccount + `, subject: "` + s + `" } }, `)
	}
	return b.String()
}
