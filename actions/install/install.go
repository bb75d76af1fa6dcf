// Package install lists the kinds of action this Weir has.
//
// It stands where a rule's document meets the code: the key of an action finds
// its kind here, and the reference of all actions is written from here.
package install

import (
	"fmt"
	"strings"

	"github.com/weir-iot/weir/actions"
	"github.com/weir-iot/weir/actions/dynamodb"
	"github.com/weir-iot/weir/actions/http"
	"github.com/weir-iot/weir/actions/lambda"
	"github.com/weir-iot/weir/actions/republish"
	"github.com/weir-iot/weir/actions/s3"
)

//go:generate go run ./reference ../../docs/actions.md

// Kinds returns all kinds, in the order of the reference.
func Kinds() []actions.Kind {
	return []actions.Kind{republish.Kind, http.Kind, s3.Kind, dynamodb.Kind, dynamodb.KindV2, lambda.Kind}
}

// Find returns the kind that a rule's action names, such as "s3".
func Find(name string) (actions.Kind, bool) {
	for _, k := range Kinds() {
		if k.Name == name {
			return k, true
		}
	}
	return actions.Kind{}, false
}

// Reference returns docs/actions.md.
func Reference() string {
	var b strings.Builder
	b.WriteString(introduction)
	for _, k := range Kinds() {
		fmt.Fprintf(&b, "- [%s](#%s): %s\n", k.Name, strings.ToLower(k.Name), k.Summary)
	}
	for _, k := range Kinds() {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n", k.Name, k.Summary)
		b.WriteString("| key | type | required | `${…}` | default | |\n| --- | --- | --- | --- | --- | --- |\n")
		table(&b, "", k.Fields)
		if n := strings.TrimSpace(notes[k.Name]); n != "" {
			fmt.Fprintf(&b, "\n%s\n", n)
		}
	}
	return b.String()
}

func table(b *strings.Builder, prefix string, fields []actions.Field) {
	for _, f := range fields {
		help := f.Help
		if len(f.Values) > 0 {
			help += " One of `" + strings.Join(f.Values, "`, `") + "`."
		}
		kind := string(f.Type)
		if f.Type == actions.List && len(f.Fields) > 0 {
			kind = "list of objects"
		}
		deflt := f.Default
		if deflt != "" {
			deflt = "`" + deflt + "`"
		}
		fmt.Fprintf(b, "| `%s%s` | %s | %s | %s | %s | %s |\n", prefix, f.Name, kind, yes(f.Required), yes(f.Template), deflt, strings.ReplaceAll(strings.TrimSpace(help), "|", `\|`))
		next := prefix + f.Name + "."
		if f.Type == actions.List {
			next = prefix + f.Name + "[]."
		}
		table(b, next, f.Fields)
	}
}

func yes(v bool) string {
	if v {
		return "yes"
	}
	return ""
}

const introduction = `# Actions

<!-- Written by go generate ./actions/install from the tables of the actions. Do not edit. -->

A rule's ` + "`actions`" + ` is a list of objects, each with one key, the kind of the action, and its
parameters, as AWS IoT Core has them. ` + "`errorAction`" + ` is one such object. An unknown key is refused, and so
is a missing one.

` + "```json" + `
{"ruleName": "hot", "sql": "SELECT * FROM 'factory/+/telemetry' WHERE temperature > 40",
 "actions": [{"s3": {"bucketName": "alerts", "key": "${topic(2)}/${timestamp()}.json"}}],
 "errorAction": {"republish": {"topic": "errors/hot", "qos": 1}}}
` + "```" + `

Where the column ` + "`${…}`" + ` says yes, a text may hold substitution templates: ` + "`${expression}`" + ` stands for the
value of the expression over the original message. A value is encoded for the place it comes to. Where it
cannot stand there (a wildcard in a topic, a control character in a key, a header or a URL) the result goes
to the rule's error action.

What becomes of a delivery that fails:

- An answer that may change (HTTP 429 and 5xx, throttling) is a try. There are three, with pauses that grow,
  and not before the destination's ` + "`Retry-After`" + `, an hour at most.
- An answer that will not change (another status, a missing bucket or table, access denied) sends the result
  to the error action at once.
- No answer (no connection, a time limit) is no try: the results wait in order until the destination
  answers again, for an hour at most.

A result is delivered at least once. After a crash or a lost answer it is delivered again, with the same
message id.

`

// notes are what a table cannot say.
var notes = map[string]string{
	"republish": `
The message keeps the order of the source's client, is not retained, and has no client id. A message passes at
most 10 republish actions; then the rules go in a circle and the result goes to the error action.`,
	"http": `
**Confirmation.** Before results are sent, the owner of the web server must agree. When a rule is created, Weir
posts to ` + "`confirmationUrl`" + ` (header ` + "`x-amz-rules-engine-message-type: DestinationConfirmation`" + `) a JSON object with ` + "`arn`" + `,
` + "`confirmationToken`" + `, ` + "`enableUrl`" + ` and ` + "`messageType`" + `. A GET of ` + "`enableUrl`" + `, or the token given to ConfirmTopicRuleDestination,
enables the destination. Until then results wait. A destination is IN_PROGRESS, ENABLED, DISABLED, or ERROR
when nobody confirmed it within 72 hours or three requests failed; set to IN_PROGRESS it is asked again. ` + "`weir dev`" + `
enables destinations on the own machine (localhost, 127.0.0.0/8, ::1) without asking; ` + "`weir serve`" + ` never does.

**Addresses.** Public addresses and https only. Loopback and private networks are open in ` + "`weir dev`" + ` and where the
configuration lists them, there for plain http too. Link-local addresses, where clouds keep their metadata,
are always closed unless listed. The address that is dialled is judged, not its name. Redirects are not followed.

**Requests.** A POST with the result as its body, 3 seconds for all of it. ` + "`x-weir-message-id`" + ` is the id of the
message, the same in every repeat, for receivers that drop what they know; ` + "`x-weir-rule`" + ` is the rule's name. In a
batch it lists the ids in the order of the JSON array. A 2xx status is the confirmation. Of the reply at most 16,384 bytes
are read; a failure with a longer one is not tried again. Unlike AWS IoT Core, Weir tries again where the
server closes the connection after its answer, and takes IPv6 addresses.`,
	"s3": `
Weir honours the AWS environment: ` + "`AWS_ENDPOINT_URL_S3`" + ` points the action at another server, which is then
addressed in path style. ` + "`weir dev`" + ` brings an S3 along that keeps objects as files in the folder ` + "`s3`" + ` of the data
directory; it is used where the environment names no other.`,
	"dynamoDB": `
A repeat of a result leaves the same item. ` + "`AWS_ENDPOINT_URL_DYNAMODB`" + ` points the action at another server.`,
	"lambda": `
A function that is deployed here has answered before a result counts as delivered. One that fails, or whose time is
up, is run twice more, and then the result goes to the error action. While all places of its concurrency are taken,
results wait. Every repeat has the same request id. A function of AWS Lambda gets the result into its own queue and is
tried again by AWS. A result must be JSON of at most 262,144 bytes.`,
	"dynamoDBv2": `
A repeat of a result leaves the same item. A result that is not a JSON object goes to the error action.`,
}
