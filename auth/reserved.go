package auth

import (
	"slices"
	"strings"

	"adit/tunnel"
)

// Reserved are patterns of IDs that take a credential which names them: one
// whose scope has the ID itself, and not only a pattern that matches it. An ID
// without '*' reserves those that look like it too.
type Reserved []string

// Allows reports whether r does not keep an identity with that scope from id.
func (r Reserved) Allows(id tunnel.ID, s Scope) bool {
	return slices.Contains(s.IDs, string(id)) || !slices.ContainsFunc(r, func(p string) bool {
		return match(p, string(id)) || !strings.Contains(p, "*") && skeleton(p) == skeleton(string(id))
	})
}

// looks replaces what a hasty reader takes for something else.
var looks = strings.NewReplacer("-", "", "rn", "m", "vv", "w", "cl", "d", "0", "o", "1", "l", "i", "l", "3", "e", "5", "s", "8", "b")

func skeleton(id string) string { return looks.Replace(id) }
