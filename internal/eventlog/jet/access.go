package jet

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// What a data team's client may ask for, of the streams in Options.Readable
// alone. A request crosses from the READER account to WEIR through a service
// import: an answer goes back the way the request came, whatever reply subject
// the client names. Making a consumer passes through serveReaders, because what
// a consumer delivers would otherwise go to any subject of WEIR its maker wrote
// into deliver_subject.
var readerServices = []string{
	"$JS.API.STREAM.INFO.{}",
	"$JS.API.CONSUMER.INFO.{}.*",
	"$JS.API.CONSUMER.NAMES.{}",
	"$JS.API.CONSUMER.LIST.{}",
	"$JS.API.CONSUMER.DELETE.{}.*",
	"$JS.API.CONSUMER.MSG.NEXT.{}.*",
	"$JS.API.DIRECT.GET.{}",
	"$JS.API.DIRECT.GET.{}.>",
	"$JS.ACK.{}.>",
}

// readerChecked are the requests that serveReaders answers, by the subject they
// have in WEIR behind readerPrefix.
var readerChecked = []string{
	"$JS.API.CONSUMER.CREATE.{}",
	"$JS.API.CONSUMER.CREATE.{}.>",
	"$JS.API.CONSUMER.DURABLE.CREATE.{}.*",
}

const (
	readerPrefix = "weir.reader."
	accountInfo  = "$JS.API.INFO"
)

// readerConfig returns the exports of WEIR and the imports of READER.
func readerConfig(streams []string) (exports, imports string) {
	var ex, im strings.Builder
	checked := func(s string) {
		to := readerPrefix + strings.TrimPrefix(s, "$JS.API.")
		ex.WriteString(`{ service: "` + to + `", accounts: [` + readerAccount + `] }, `)
		im.WriteString(`{ service: { account: ` + weirAccount + `, subject: "` + to + `" }, to: "` + s + `" }, `)
	}
	// Without an import of this one the server would import JetStream's whole
	// API into READER, to answer that it is not enabled there.
	checked(accountInfo)
	for _, stream := range streams {
		for _, s := range readerServices {
			s = strings.Replace(s, "{}", stream, 1)
			ex.WriteString(`{ service: "` + s + `", response: stream, accounts: [` + readerAccount + `] }, `)
			im.WriteString(`{ service: { account: ` + weirAccount + `, subject: "` + s + `" } }, `)
		}
		for _, s := range readerChecked {
			checked(strings.Replace(s, "{}", stream, 1))
		}
	}
	return ex.String(), im.String()
}

// serveReaders answers the readers' requests to make consumers, until ctx ends.
func (s *Store) serveReaders(ctx context.Context) {
	for ctx.Err() == nil {
		_, broken, change := s.state()
		if broken == nil {
			if err := s.serveReadersOnce(ctx); err != nil && ctx.Err() == nil {
				s.Logger().Debug("the connection for readers has ended", "err", err)
			}
		}
		select {
		case <-ctx.Done():
		case <-change:
		case <-time.After(time.Second):
		}
	}
}

func (s *Store) serveReadersOnce(ctx context.Context) error {
	c, err := s.dial()
	if err != nil {
		return err
	}
	defer c.close()
	stop := context.AfterFunc(ctx, func() { c.nc.Close() })
	defer stop()
	dead := func() error { return errTimeout }
	if err := c.write([]byte("SUB "+readerPrefix+"> 2\r\n"), dead); err != nil {
		return err
	}
	for {
		f, err := c.read(time.Now().Add(time.Minute))
		if err == errWait {
			continue
		}
		if err != nil {
			return err
		}
		name, ok := strings.CutPrefix(string(f.subject), readerPrefix)
		if !ok || len(f.reply) == 0 {
			continue
		}
		reply := string(f.reply)
		answer := s.checked("$JS.API."+name, append([]byte(nil), f.payload...))
		b := append([]byte("PUB "+reply+" "), strconv.Itoa(len(answer))...)
		b = append(append(append(b, "\r\n"...), answer...), "\r\n"...)
		if err := c.write(b, dead); err != nil {
			return err
		}
	}
}

// checked passes a request on if it asks for a pull consumer.
func (s *Store) checked(subject string, body []byte) []byte {
	refuse := func(code int, why string) []byte {
		b, err := json.Marshal(map[string]any{
			"type":  "io.nats.jetstream.api.v1.consumer_create_response",
			"error": apiError{Code: code, ErrCode: 10000 + code, Desc: why},
		})
		if err != nil {
			panic(err) // strings and numbers
		}
		return b
	}
	var req struct {
		Config struct {
			DeliverSubject string `json:"deliver_subject"`
		} `json:"config"`
	}
	if subject == accountInfo {
		body = nil
	} else if err := json.Unmarshal(body, &req); err != nil {
		return refuse(400, "the request is not JSON: "+err.Error())
	}
	if req.Config.DeliverSubject != "" {
		return refuse(403, "readers may make pull consumers only, without deliver_subject")
	}
	var answer []byte
	err := s.with(func(c *conn) error {
		var err error
		answer, err = c.request(subject, body, s.o.Deadline)
		return err
	})
	if err != nil {
		return refuse(503, err.Error())
	}
	return answer
}
