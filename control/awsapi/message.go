package awsapi

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"strings"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
)

// Messages publishes, and reads retained messages.
type Messages interface {
	// Publish appends e, whose topic is as the client wrote it, and returns once
	// the log has committed it. Errors: errs.Invalid (topic), Forbidden (a topic
	// clients may not publish on), TooLarge, Quota, Unavailable.
	Publish(ctx context.Context, e *event.Event) error

	// Retained returns the retained message of a topic, nil where there is none.
	// Errors: errs.Unavailable.
	Retained(n topic.Name) (*event.Event, error)
	// RetainedAfter returns up to max retained messages of the topics behind
	// after, sorted by topic. Errors: errs.Unavailable.
	RetainedAfter(after topic.Name, max int) ([]*event.Event, error)
}

// dataOperations is the data plane: what devices may do too.
func dataOperations() []operation {
	return []operation{
		op(Data, "Publish", "topic/{topic}", (*API).publish, atMost(2<<20)),
		op(Data, "GetRetainedMessage", "topic/{topic}", (*API).getRetainedMessage),
		op(Data, "ListRetainedMessages", "*", (*API).listRetainedMessages),
	}
}

type publishRequest struct {
	Topic                  string          `json:"topic" in:"uri" is:"required"`
	QoS                    int64           `json:"qos" in:"query" is:"0..1"`
	Retain                 bool            `json:"retain" in:"query"`
	Payload                []byte          `json:"payload" in:"payload"`
	UserProperties         json.RawMessage `json:"x-amz-mqtt5-user-properties" in:"header"`
	PayloadFormatIndicator string          `json:"x-amz-mqtt5-payload-format-indicator" in:"header" is:"=UNSPECIFIED_BYTES|UTF8_DATA"`
	ContentType            string          `json:"contentType" in:"query" is:"..1024"`
	ResponseTopic          string          `json:"responseTopic" in:"query"`
	CorrelationData        string          `json:"x-amz-mqtt5-correlation-data" in:"header" is:"..1368"`
	MessageExpiry          int64           `json:"messageExpiry" in:"query" is:"0..4294967295"`
}

func (a *API) publish(ctx context.Context, q *publishRequest) (*none, error) {
	c := callerOf(ctx)
	if q.Retain && !a.may(ctx, "iot:RetainPublish", "topic/"+q.Topic) {
		return nil, a.denied(c, "iot:RetainPublish", a.arn+"topic/"+q.Topic, Data)
	}
	e := &event.Event{Topic: topic.Name(q.Topic), Payload: q.Payload, Principal: c.ID, Protocol: event.HTTP, QoS: byte(q.QoS), Retain: q.Retain}
	if c.SourceIP.IsValid() {
		e.SourceIP = c.SourceIP.String()
	}
	p := event.Properties{ContentType: q.ContentType, ResponseTopic: q.ResponseTopic, MessageExpiry: uint32(q.MessageExpiry),
		PayloadUTF8: q.PayloadFormatIndicator == "UTF8_DATA"}
	var err error
	if p.CorrelationData, err = base64.StdEncoding.DecodeString(q.CorrelationData); err != nil {
		return nil, invalid("x-amz-mqtt5-correlation-data is not base64")
	}
	if p.User, err = userProperties(q.UserProperties); err != nil {
		return nil, err
	}
	if p.ContentType != "" || p.ResponseTopic != "" || p.MessageExpiry != 0 || p.PayloadUTF8 || len(p.CorrelationData) > 0 || len(p.User) > 0 {
		e.Props = &p
	}
	return &none{}, a.o.Messages.Publish(ctx, e)
}

// userProperties reads a JSON array of objects with one member each, in their
// order.
func userProperties(raw json.RawMessage) ([]event.UserProperty, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	var list []map[string]string
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, invalid("x-amz-mqtt5-user-properties is not a JSON array of objects with a text each")
	}
	var out []event.UserProperty
	for _, o := range list {
		if len(o) != 1 {
			return nil, invalid("x-amz-mqtt5-user-properties: each object must have one member")
		}
		for k, v := range o {
			if strings.ContainsRune(k, 0) || strings.ContainsRune(v, 0) {
				return nil, invalid("x-amz-mqtt5-user-properties: a character is not allowed")
			}
			out = append(out, event.UserProperty{Key: k, Value: v})
		}
	}
	return out, nil
}

type getRetainedMessageRequest struct {
	Topic string `json:"topic" in:"uri" is:"required"`
}

type getRetainedMessageResponse struct {
	Topic            string `json:"topic"`
	Payload          []byte `json:"payload"`
	QoS              int64  `json:"qos"`
	LastModifiedTime int64  `json:"lastModifiedTime"` // milliseconds since 1970
	UserProperties   []byte `json:"userProperties,omitempty"`
}

func (a *API) getRetainedMessage(_ context.Context, q *getRetainedMessageRequest) (*getRetainedMessageResponse, error) {
	e, err := a.o.Messages.Retained(topic.Name(q.Topic))
	if err != nil {
		return nil, err
	}
	if e == nil {
		return nil, notFound("There is no retained message on the topic %s", clip(q.Topic))
	}
	out := &getRetainedMessageResponse{Topic: string(e.Topic), Payload: e.Payload, QoS: int64(e.QoS), LastModifiedTime: e.Received.UnixMilli()}
	if e.Props != nil && len(e.Props.User) > 0 {
		list := make([]map[string]string, len(e.Props.User))
		for i, u := range e.Props.User {
			list[i] = map[string]string{u.Key: u.Value}
		}
		out.UserProperties, _ = json.Marshal(list) // of strings only
	}
	return out, nil
}

type listRetainedMessagesRequest struct {
	NextToken  string `json:"nextToken" in:"query"`
	MaxResults *int64 `json:"maxResults" in:"query" is:"1..200"`
}

type listRetainedMessagesResponse struct {
	RetainedTopics []retainedMessage `json:"retainedTopics"`
	NextToken      string            `json:"nextToken,omitempty"`
}

type retainedMessage struct {
	Topic            string `json:"topic"`
	PayloadSize      int64  `json:"payloadSize"`
	QoS              int64  `json:"qos"`
	LastModifiedTime int64  `json:"lastModifiedTime"`
}

func (a *API) listRetainedMessages(_ context.Context, q *listRetainedMessagesRequest) (*listRetainedMessagesResponse, error) {
	const list = "ListRetainedMessages"
	last, err := readToken(list, q.NextToken)
	if err != nil {
		return nil, err
	}
	n := 200
	if q.MaxResults != nil {
		n = int(*q.MaxResults)
	}
	found, err := a.o.Messages.RetainedAfter(topic.Name(last), n+1)
	if err != nil {
		return nil, err
	}
	out := &listRetainedMessagesResponse{RetainedTopics: []retainedMessage{}}
	if len(found) > n {
		found = found[:n]
		out.NextToken = token(list, string(found[n-1].Topic))
	}
	for _, e := range found {
		out.RetainedTopics = append(out.RetainedTopics, retainedMessage{string(e.Topic), int64(len(e.Payload)), int64(e.QoS), e.Received.UnixMilli()})
	}
	return out, nil
}
