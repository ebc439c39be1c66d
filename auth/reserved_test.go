package auth_test

import (
	"strings"
	"testing"

	"adit/auth"
	"adit/tunnel"
)

func TestReserved(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		reserved, scope string // separated by spaces
		id              tunnel.ID
		want            bool
	}{
		{"", "*", "billing", true},
		{"billing", "*", "billing", false},
		{"billing", "bill*", "billing", false},
		{"billing", "billing", "billing", true},
		{"billing", "web billing", "billing", true},
		{"billing", "*", "billing-2", true},
		{"corp-*", "*", "corp-mail", false},
		{"corp-*", "*", "c0rp-mail", true}, // patterns reserve what they match

		{"billing", "*", "bi11ing", false},
		{"billing", "*", "bil-ling", false},
		{"billing", "*", "blllng", true},
		{"modern", "*", "rnodern", false},
		{"modern", "*", "modem", false},
		{"www2", "*", "vvww2", false},
		{"google", "*", "g00g1e", false},
		{"google", "g00g1e", "g00g1e", true},
	} {
		r, s := auth.Reserved(strings.Fields(tt.reserved)), auth.Scope{IDs: strings.Fields(tt.scope)}
		if got := r.Allows(tt.id, s); got != tt.want {
			t.Errorf("reserved %q, scope %q: Allows(%q): got %v, want %v", tt.reserved, tt.scope, tt.id, got, tt.want)
		}
	}
}
