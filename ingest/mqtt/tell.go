package mqtt

import "log/slog"

// Lines of the log about a client name all it is known by: how much is logged
// may be set by any of it.

// warn writes a line that the client can provoke.
func (c *client) warn(msg string, args ...any) { c.s.noise.warn(msg, append(args, c.who()...)...) }

// debugs reports whether somebody may want to see all that clients do.
func (c *client) debugs() bool { return c.s.logger.Enabled(c.ctx, slog.LevelDebug) }

// debug writes a line about what the client does, for those who want to see all
// of it. It is asked for before where its arguments cost something.
func (c *client) debug(msg string, args ...any) {
	if c.debugs() {
		c.s.logger.Debug(msg, append(args, c.who()...)...)
	}
}

func (c *client) who() []any {
	principal := ""
	if c.principal != nil {
		principal = c.principal.ID
	}
	return []any{"clientId", c.id, "principal", principal, "remote", c.remote.String()}
}
