// Package deploy holds what is needed to run Weir somewhere: a container image,
// a systemd unit, an example of a configuration. No message passes through it.
package deploy
