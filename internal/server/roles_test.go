package server

import (
	"slices"
	"testing"

	"github.com/weir-iot/weir/internal/config"
)

func TestRoles(t *testing.T) {
	if !slices.Equal(config.Roles, roleNames) || len(roleNames) >= 16 || everyRole != 1<<len(roleNames)-1 {
		t.Error("the configuration knows", config.Roles, "the server", roleNames)
	}
	if set, err := rolesOf(nil); err != nil || !slices.Equal(set.names(), roleNames) {
		t.Error("without roles all run, not", set.names(), err)
	}
	if set, err := rolesOf([]string{"registry", "ingest"}); err != nil || set != ingestRole|registryRole {
		t.Error(set.names(), err)
	}
	if _, err := rolesOf([]string{"ingest", "shadows"}); err == nil {
		t.Error("an unknown role is accepted")
	}
}
