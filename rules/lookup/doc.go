// Package lookup serves the functions of rule SQL that call out: get_dynamodb,
// get_secret, aws_lambda and decode(…, 'proto', …).
//
// It stands beside a message's way: the engine evaluates a statement, the
// evaluator asks one of these readers, and the reader asks a service that speaks
// an API of AWS. Open finds out which services there are; a rule that needs
// another one is refused when it is made.
//
// All readers act with the credentials of the AWS environment: the role a
// statement names is not assumed. They give up when their context ends, ask
// again within it where an answer says that this may help, read a bounded
// answer, and put no key, token or secret into an error.
package lookup
