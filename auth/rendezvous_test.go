package auth_test

import (
	"errors"
	"strings"
	"testing"

	"adit/auth"
)

func TestRendezvousTokens(t *testing.T) {
	t.Parallel()
	const plain, locked = "token-of-sixteen-bytes", "another:token-of-sixteen"
	tokens, err := auth.NewRendezvousTokens([]auth.RendezvousToken{{"web", plain, ""}, {"db", locked, "pass:word"}}, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		token, password, id string
		code                auth.Code
	}{
		{plain, "", "web", ""},
		{plain, "whatever", "web", ""},
		{locked, "pass:word", "db", ""},
		{locked, "", "", auth.InvalidCredential},
		{locked, "pass", "", auth.InvalidCredential},
		{"nobody-has-this-token", "", "", auth.InvalidCredential},
		{"", "", "", auth.MissingCredential},
	} {
		id, err := tokens.Authenticate(t.Context(), auth.Claim{Token: tt.token, Password: tt.password})
		if tt.code == "" {
			if err != nil || id.Subject != auth.RendezvousSubject || len(id.Scope.IDs) != 1 || id.Scope.IDs[0] != tt.id {
				t.Errorf("%q %q: got %+v, %v; want %s", tt.token, tt.password, id, err, tt.id)
			}
			continue
		}
		if e, ok := errors.AsType[*auth.Error](err); !ok || e.Code != tt.code || id != nil {
			t.Errorf("%q %q: got %v, %v; want %s", tt.token, tt.password, id, err, tt.code)
		}
	}
	for name, bad := range map[string][]auth.RendezvousToken{
		"short": {{"web", "fifteen-bytes-1", ""}},
		"id":    {{"a b", plain, ""}},
		"twice": {{"web", plain, ""}, {"db", plain, "p"}},
	} {
		if _, err := auth.NewRendezvousTokens(bad, ""); err == nil || strings.Contains(err.Error(), bad[0].Token) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
