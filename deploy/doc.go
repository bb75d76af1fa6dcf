// Package deploy holds what is needed to run Weir somewhere: a container image,
// systemd units, compose for a process a role, an example of a configuration. No
// message passes through it.
package deploy
