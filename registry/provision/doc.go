// Package provision lets devices enrol themselves: provisioning templates, the
// calls by which a device gets a certificate and becomes a thing, and
// provisioning at the first connection.
//
// It has no part in a message's way: its calls are private. The gateway hands
// them over instead of appending them, and gives the answer to the connection
// that asked, to nobody else. On the log comes, for each attempt, an event that
// tells what was asked for, step by step, and what became of it, without keys,
// tokens and parameters' values.
//
// A template is compiled (Compile), expanded with a device's parameters into a
// Plan, and the plan is applied within one change of the registry: all of it
// holds, or nothing. What a device has asked for and not activated within the
// hour, Run deletes, also where Weir was down at that hour: the registry knows
// each certificate's claim.
package provision
