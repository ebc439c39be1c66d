package auth_test

import (
	"strings"
	"testing"

	"adit/auth"
	"adit/tunnel"
)

func TestAllowsID(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		patterns string // separated by spaces
		id       tunnel.ID
		want     bool
	}{
		{"", "web", false},
		{"", "", false},
		{"*", "", false},
		{"*", "web", true},
		{"web", "web", true},
		{"web", "web2", false},
		{"web", "Web", false},
		{"web-*", "web-", true},
		{"web-*", "web-1", true},
		{"web-*", "web", false},
		{"web-*", "my-web-1", false},
		{"*-web", "a-web", true},
		{"a*b*c", "abc", true},
		{"a*b*c", "a-b-b-c", true},
		{"a*b*c", "acb", false},
		{"a**", "a", true},
		{"[a-z]?", "ab", false},
		{"db web-*", "db", true},
		{"db web-*", "web-9", true},
		{"db web-*", "db2", false},
	} {
		s := auth.Scope{IDs: strings.Fields(tt.patterns)}
		if got := s.AllowsID(tt.id); got != tt.want {
			t.Errorf("scope %q: AllowsID(%q): got %v, want %v", tt.patterns, tt.id, got, tt.want)
		}
	}
}

// A pattern of many stars must not take exponential time.
func TestAllowsIDIsFast(t *testing.T) {
	t.Parallel()
	s := auth.Scope{IDs: []string{strings.Repeat("*a", 120) + "b"}}
	if s.AllowsID(tunnel.ID(strings.Repeat("a", 5000))) {
		t.Error("got true, want false")
	}
}

func TestAllowsPort(t *testing.T) {
	t.Parallel()
	s := auth.Scope{Ports: []auth.PortRange{{22, 22}, {2000, 2999}}}
	for port, want := range map[uint16]bool{0: false, 21: false, 22: true, 23: false, 1999: false, 2000: true, 2999: true, 3000: false} {
		if got := s.AllowsPort(port); got != want {
			t.Errorf("AllowsPort(%d): got %v, want %v", port, got, want)
		}
	}
	if (auth.Scope{}).AllowsPort(80) {
		t.Error("the zero Scope allows port 80")
	}
	if s.AllowsUDPPort(22) || !(auth.Scope{UDPPorts: s.Ports}).AllowsUDPPort(22) || (auth.Scope{UDPPorts: s.Ports}).AllowsPort(22) {
		t.Error("ports of TCP count for UDP, or the other way round")
	}
	if !auth.Everything().AllowsUDPPort(53) || auth.Everything().AllowsUDPPort(0) {
		t.Error("Everything does not allow UDP port 53, or allows 0")
	}
	if auth.Everything().AllowsPort(0) {
		t.Error("Everything allows port 0")
	}
}

func TestParsePortRange(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]auth.PortRange{
		"22":        {22, 22},
		"2000-2999": {2000, 2999},
		"1-65535":   {1, 65535},
		"5-5":       {5, 5},
	} {
		got, err := auth.ParsePortRange(in)
		if err != nil || got != want {
			t.Errorf("ParsePortRange(%q): got %v, %v, want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "0", "0-5", "65536", "1-65536", "-1", "1-", "-", "2-1", "1-2-3", " 1", "+1", "1-+2", "0x10", "a", "*"} {
		if got, err := auth.ParsePortRange(in); err == nil {
			t.Errorf("ParsePortRange(%q): got %v, want an error", in, got)
		}
	}
}

func TestCheckPattern(t *testing.T) {
	t.Parallel()
	for _, p := range []string{"*", "web", "web-*", "Some_Token.9", strings.Repeat("a", 255)} {
		if err := auth.CheckPattern(p); err != nil {
			t.Errorf("CheckPattern(%q): %v", p, err)
		}
	}
	for _, p := range []string{"", "a b", "a\n", "é", strings.Repeat("a", 256)} {
		if err := auth.CheckPattern(p); err == nil {
			t.Errorf("CheckPattern(%q): got no error", p)
		}
	}
}

func FuzzParsePortRange(f *testing.F) {
	f.Add("22")
	f.Add("2000-2999")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := auth.ParsePortRange(s)
		if err != nil {
			return
		}
		if again, err := auth.ParsePortRange(r.String()); err != nil || again != r {
			t.Errorf("%q gives %v, which gives %v, %v", s, r, again, err)
		}
	})
}
