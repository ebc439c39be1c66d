package auth_test

import (
	"strings"
	"testing"

	"adit/auth"
)

func TestAllowsHostname(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		patterns string // separated by spaces
		hostname string
		want     bool
	}{
		{"", "app.example.com", false},
		{"*", "app.example.com", true},
		{"*", "localhost", true},
		{"app.example.com", "app.example.com", true},
		{"app.example.com", "xapp.example.com", false},
		{"app.example.com", "app.example.com.evil.test", false},
		{"app.example.com", "a.app.example.com", false},
		{"*.example.com", "a.example.com", true},
		{"*.example.com", "a.b.example.com", false},
		{"*.example.com", "example.com", false},
		{"*.example.com", "evilexample.com", false},
		{"*.*.example.com", "a.b.example.com", true},
		{"web-*.example.com", "web-1.example.com", true},
		{"web-*.example.com", "web-.example.com", false}, // no hostname
		{"web-*.example.com", "web-1.evil.example.com", false},
		{"a.example.com *.example.org", "x.example.org", true},

		// What is no hostname nobody may bind.
		{"*", "", false},
		{"*", "*", false},
		{"*.example.com", "*.example.com", false},
		{"*", "App.example.com", false},
		{"app.example.com", "app.example.com.", false},
		{"app.example.com", "app.example.com:443", false},
		{"*", "127.0.0.1", false},
		{"*", "2130706433", false},
		{"*", "::1", false},
		{"*", "a\x00.example.com", false},
	} {
		s := auth.Scope{Hostnames: strings.Fields(tt.patterns)}
		if got := s.AllowsHostname(tt.hostname); got != tt.want {
			t.Errorf("scope %q: AllowsHostname(%q): got %v, want %v", tt.patterns, tt.hostname, got, tt.want)
		}
	}
}

func TestCheckHostPattern(t *testing.T) {
	t.Parallel()
	for _, p := range []string{"*", "app.example.com", "*.example.com", "web-*.*.example.com", "localhost", "*-web.example.com"} {
		if err := auth.CheckHostPattern(p); err != nil {
			t.Errorf("CheckHostPattern(%q): %v", p, err)
		}
	}
	for _, p := range []string{
		"", "app.*", "*.*", "w*", "**", "*.example.com.", "*.Example.com", "*.example.com:443", "*..example.com", ".example.com",
		"10.0.*.1", "127.0.0.1", "::1", "a b", "é.example", strings.Repeat("*", 64) + ".com",
	} {
		if err := auth.CheckHostPattern(p); err == nil {
			t.Errorf("CheckHostPattern(%q): got no error", p)
		}
	}
}

// A pattern allows nothing that is not spelled as visitors are routed.
func FuzzAllowsHostname(f *testing.F) {
	f.Add("*.example.com", "a.example.com")
	f.Add("*", "localhost")
	f.Fuzz(func(t *testing.T, pattern, host string) {
		if auth.CheckHostPattern(pattern) != nil {
			return
		}
		s := auth.Scope{Hostnames: []string{pattern}}
		if !s.AllowsHostname(host) {
			return
		}
		if host != strings.ToLower(host) || strings.ContainsAny(host, "*:/ ") || strings.HasSuffix(host, ".") {
			t.Errorf("pattern %q allows %q", pattern, host)
		}
		if pattern != "*" && strings.Count(pattern, ".") != strings.Count(host, ".") {
			t.Errorf("pattern %q allows %q, which has other labels", pattern, host)
		}
	})
}
