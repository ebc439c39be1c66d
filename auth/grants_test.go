package auth_test

import (
	"context"
	"crypto/x509"
	"os"
	"strings"
	"testing"
	"time"

	"adit/auth"
)

const grantsText = `
grants:
  - certificate: {cn: "web-*", ou: web}
    ids: ["web-*"]
    tcp_ports: ["2000-2999"]
    udp_ports: ["53"]
  - certificate: {dns: "*.internal"}
    udp_ports: ["5000-5999"]
    hostnames: ["*.example.com"]
    forward: ["db.internal:5432"]
  - jwt: {sub: "repo:acme/*", environment: production}
    ids: ["acme-*"]
  - jwt: {groups: admins}
    ids: ["*"]
`

func TestGrantsFile(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, authority{}, time.Time{})
	s := newSigner(t, "EdDSA", "k")
	path := writeFile(t, "grants.yaml", grantsText)
	a, _ := withKeys(t, auth.Options{Authorities: writePEM(t, ca.cert), Grants: path}, s.jwk(t))

	named := func(cn, ou string, dns ...string) auth.Claim {
		leaf, _ := ca.sign(t, client(cn, func(c *x509.Certificate) {
			c.Subject.OrganizationalUnit = []string{"all", ou}
			c.DNSNames = dns
			c.URIs = uris(t, "adit:id:admin-tools") // counts for nothing: there is a file
		}))
		return auth.Claim{Certs: []*x509.Certificate{leaf}}
	}
	signed := func(change m) auth.Claim {
		change["adit"] = m{"ids": []string{"admin-tools"}} // neither does this
		return auth.Claim{Token: s.token(t, change)}
	}
	for _, tt := range []struct {
		name  string
		claim auth.Claim
		code  auth.Code
		ids   string // of the scope
	}{
		{"certificate", named("web-1", "web"), "", "web-*"},
		{"two rules", named("web-1", "web", "A.Internal"), "", "web-*"},
		{"another unit", named("web-1", "db"), auth.Forbidden, ""},
		{"another name", named("api-1", "web"), auth.Forbidden, ""},
		{"by DNS name", named("x", "", "a.internal"), "", ""},
		{"token", signed(m{"sub": "repo:acme/app", "environment": "production"}), "", "acme-*"},
		{"another environment", signed(m{"sub": "repo:acme/app", "environment": "staging"}), auth.Forbidden, ""},
		{"no environment", signed(m{"sub": "repo:acme/app"}), auth.Forbidden, ""},
		{"environment that is no text", signed(m{"sub": "repo:acme/app", "environment": m{"production": true}}), auth.Forbidden, ""},
		{"somebody else's repository", signed(m{"sub": "repo:acme-evil/app", "environment": "production"}), auth.Forbidden, ""},
		{"one of a list", signed(m{"groups": []any{"users", "admins", 7}}), "", "*"},
		{"not in the list", signed(m{"groups": []string{"users"}}), auth.Forbidden, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			i := check(t, a, tt.claim, tt.code)
			if i == nil {
				return
			}
			if got := strings.Join(i.Scope.IDs, " "); got != tt.ids {
				t.Errorf("got IDs %q, want %q", got, tt.ids)
			}
			if two := tt.name == "two rules"; two && len(i.Scope.UDPPorts) != 2 || !two && i.Scope.AllowsUDPPort(5000) != (tt.name == "by DNS name") {
				t.Errorf("got the UDP ports %v, want those of the rules that match", i.Scope.UDPPorts)
			}
			if i.Scope.AllowsID("admin-tools") && tt.ids != "*" {
				t.Error("what the credential says of itself counts")
			}
		})
	}
}

// What a rule no longer allows is lost to sessions that live on it.
func TestGrantsFileChanges(t *testing.T) {
	t.Parallel()
	s := newSigner(t, "EdDSA", "k")
	ca := newAuthority(t, authority{}, time.Time{})
	path := writeFile(t, "grants.yaml", grantsText)
	a, _ := withKeys(t, auth.Options{Authorities: writePEM(t, ca.cert), Grants: path}, s.jwk(t))
	leaf, _ := ca.sign(t, client("x", func(c *x509.Certificate) { c.DNSNames = []string{"a.internal"} }))
	byToken := check(t, a, auth.Claim{Token: s.token(t, m{"groups": "admins"})}, "")
	byCert := check(t, a, auth.Claim{Certs: []*x509.Certificate{leaf}}, "")

	if err := os.WriteFile(path, []byte(strings.Replace(grantsText, `ids: ["*"]`, `ids: ["tools"]`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := reload(a); err != nil {
		t.Fatal(err)
	}
	if i, err := a.Recheck(byToken); err != nil || i.Scope.AllowsID("web") || !i.Scope.AllowsID("tools") {
		t.Errorf("got %+v, %v, want the new scope", i, err)
	}
	if i, err := a.Recheck(byCert); err != nil || !i.Scope.AllowsHostname("a.example.com") {
		t.Errorf("got %+v, %v, want the scope as it was", i, err)
	}
	if err := os.WriteFile(path, []byte("grants:\n  - jwt: {sub: x}\n    ids: [x]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := reload(a); err != nil {
		t.Fatal(err)
	}
	for _, i := range []*auth.Identity{byToken, byCert} {
		if _, err := a.Recheck(i); !isCode(err, auth.Forbidden) {
			t.Errorf("%s: got %v, want code %s", i.Subject, err, auth.Forbidden)
		}
	}
}

func TestGrantsFileRefused(t *testing.T) {
	t.Parallel()
	ca := writePEM(t, newAuthority(t, authority{}, time.Time{}).cert)
	for _, tt := range []struct{ name, text, want string }{
		{"empty", "", "empty"},
		{"no list", "grants: x", "line 1"},
		{"no rules", "grants: []", "no rules"},
		{"unknown key", "grant: []", "grant"},
		{"unknown field", "grants:\n  - certificate: {cn: a}\n    ids: [a]\n    deny: [b]\n", "deny"},
		{"unknown field of certificates", "grants:\n  - certificate: {name: a}\n    ids: [a]\n", `"name"`},
		{"matches everything", "grants:\n  - certificate: {}\n    ids: [a]\n", "at least one field"},
		{"matches nothing", "grants:\n  - ids: [a]\n", "at least one field"},
		{"matches both", "grants:\n  - certificate: {cn: a}\n    jwt: {sub: a}\n    ids: [a]\n", "either"},
		{"empty pattern", "grants:\n  - certificate: {cn: ''}\n    ids: [a]\n", "cn"},
		{"allows nothing", "grants:\n  - certificate: {cn: a}\n", "allows nothing"},
		{"malformed id", "grants:\n  - certificate: {cn: a}\n    ids: ['a b']\n", `"a b"`},
		{"malformed port", "grants:\n  - certificate: {cn: a}\n    ids: [a]\n  - certificate: {cn: b}\n    tcp_ports: ['x']\n", "rule 2"},
		{"two documents", grantsText + "---\n" + grantsText, "more than one document"},
		{"same key twice", "grants:\n  - certificate: {cn: a}\n    ids: [a]\n    ids: [b]\n", "ids"},
	} {
		_, err := auth.NewAuthenticator(auth.Options{Authorities: ca, Grants: writeFile(t, "grants.yaml", tt.text)})
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "grants.yaml") {
			t.Errorf("%s: got %v, want an error with %q and the path", tt.name, err, tt.want)
		}
	}
	if _, err := auth.NewAuthenticator(auth.Options{Grants: writeFile(t, "grants.yaml", grantsText)}); err == nil {
		t.Error("a grants file that nothing uses: got no error")
	}
}

// Secrets in files are replaced while the server runs.
func TestSecretFileChanges(t *testing.T) {
	t.Parallel()
	path := writeFile(t, "secret", rawOld)
	a, err := auth.NewAuthenticator(auth.Options{SecretFiles: []string{path}, Secrets: []auth.Secret{secret(t, rawOther)}})
	if err != nil {
		t.Fatal(err)
	}
	changed := running(t, a)
	token, err := auth.Mint(secret(t, rawOld), auth.TokenClaims{Subject: "a", Expires: time.Now().Add(time.Hour), Scope: webScope()})
	if err != nil {
		t.Fatal(err)
	}
	old := check(t, a, auth.Claim{Token: rawOld}, "")
	signed := check(t, a, auth.Claim{Token: token}, "")
	other := check(t, a, auth.Claim{Token: rawOther}, "")
	if again := check(t, a, auth.Claim{Token: rawOther}, ""); again != other {
		t.Error("two holders of one secret have an identity each, want them to share one")
	}
	if other == old {
		t.Error("holders of two secrets share an identity")
	}
	if err := os.WriteFile(path, []byte(rawNew), 0o600); err != nil {
		t.Fatal(err)
	}
	<-changed
	check(t, a, auth.Claim{Token: rawOld}, auth.InvalidCredential)
	check(t, a, auth.Claim{Token: token}, auth.InvalidCredential)
	check(t, a, auth.Claim{Token: rawNew}, "")
	for _, i := range []*auth.Identity{old, signed} {
		if _, err := a.Recheck(i); !isCode(err, auth.RevokedCredential) {
			t.Errorf("Recheck of %s: got %v, want code %s", i.Subject, err, auth.RevokedCredential)
		}
	}
	if _, err := a.Recheck(other); err != nil {
		t.Errorf("Recheck of the secret that stays: %v", err)
	}
	if err := os.WriteFile(path, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := reload(a); err == nil {
		t.Error("Reload of a short secret: got no error")
	}
	check(t, a, auth.Claim{Token: rawNew}, "")
}

func FuzzGrantsFile(f *testing.F) {
	ca := writePEM(f, newAuthority(f, authority{}, time.Time{}).cert)
	path := writeFile(f, "grants.yaml", "")
	f.Add([]byte(grantsText))
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		a, err := auth.NewAuthenticator(auth.Options{Authorities: ca, Grants: path})
		if err != nil {
			return
		}
		if _, err := a.Authenticate(context.Background(), auth.Claim{}); err == nil {
			t.Error("nobody is let in")
		}
	})
}
