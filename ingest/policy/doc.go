// Package policy is the language of AWS IoT policies: documents that say which
// actions on which resources a principal is allowed or denied.
//
// Policies are parsed and compiled once, when they are stored or attached, and
// asked for every message: ingest/auth gathers the facts of a connection at its
// CONNECT or request, and asks the Set of its principal for each publish,
// subscription and delivery. The package knows no connection and no registry.
package policy
