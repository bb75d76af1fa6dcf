// Package fault holds what the fault tests need: file systems whose power can be
// cut and whose space can end, and a ledger of what was sent and acknowledged
// that the fault does not reach.
package fault
