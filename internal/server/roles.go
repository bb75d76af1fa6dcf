package server

import (
	"fmt"
	"slices"
	"strings"

	"github.com/weir-iot/weir/internal/config"
)

// roleSet is the roles a process runs. New opens and Run runs only what belongs
// to one of them; processes with different roles meet through NATS alone.
type roleSet uint16

const (
	ingestRole    roleSet = 1 << iota // MQTT and HTTPS for devices
	rulesRole                         // the rules engine and its actions
	shadowRole                        // the shadow service
	registryRole                      // who and what there is, enrolment, the control API and AWS's
	functionsRole                     // what runs functions

	everyRole = 1<<iota - 1
)

// roleNames names the roles as config.Roles has them, in the order of their bits.
var roleNames = []string{"ingest", "rules", "shadow", "registry", "functions"}

// holders are the names under which roles hold the log: nothing is trimmed that
// one of them still needs, be it in another process, or in none at the moment.
var holders = []string{"rules", "shadow"}

// rolesOf returns the roles of a configuration; no name stands for all.
func rolesOf(names []string) (roleSet, error) {
	if len(names) == 0 {
		return everyRole, nil
	}
	var set roleSet
	for _, n := range names {
		i := slices.Index(roleNames, n)
		if i < 0 {
			return 0, fmt.Errorf("there is no role %q: the roles are %s", n, strings.Join(config.Roles, ", "))
		}
		set |= 1 << i
	}
	return set, nil
}

func (r roleSet) names() []string {
	var out []string
	for i, n := range roleNames {
		if r&(1<<i) != 0 {
			out = append(out, n)
		}
	}
	return out
}

// Roles names the roles the server runs.
func (s *Server) Roles() []string { return s.roles.names() }
