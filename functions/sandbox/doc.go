// Package sandbox runs other people's programs apart from Weir: in namespaces,
// a file system, a user, limits and an environment of their own.
//
// In a message's way it stands below the runtime of functions: the pool of a
// function asks for one more execution environment, Host.Start makes it, and the
// runtime talks to the program in it over one listener that reaches no further.
//
// A sandbox is made by this binary itself, started again as a small helper
// (Main) in the new namespaces: it mounts, limits, gives up every privilege and
// becomes the program. What the host does not permit is not done silently:
// Host.Check tries each wall from inside and reports what stood.
package sandbox
