package auth_test

import (
	"net/netip"
	"strings"
	"testing"

	"adit/auth"
)

func TestParseForwardRule(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"db.internal:5432":     "db.internal:5432",
		"*.internal:1-1024":    "*.internal:1-1024",
		"*:443":                "*:443",
		"*:*":                  "*:*",
		"localhost:1-65535":    "localhost:*",
		"10.0.0.0/8:*":         "10.0.0.0/8:*",
		"10.0.0.1:22":          "10.0.0.1:22",
		"10.0.0.1/32:22":       "10.0.0.1:22",
		"0.0.0.0/0:80":         "0.0.0.0/0:80",
		"[2001:db8::/32]:443":  "[2001:db8::/32]:443",
		"[2001:DB8::1]:22-443": "[2001:db8::1]:22-443",
	} {
		got, err := auth.ParseForwardRule(in)
		if err != nil || got.String() != want {
			t.Errorf("ParseForwardRule(%q): got %v, %v, want %s", in, got, err, want)
		}
	}
	for _, in := range []string{
		"", ":", "*", "db.internal", ":5432", "db.internal:", "db.internal:0", "db.internal:65536", "db.internal:1-", "db.internal:5432,5433",
		"DB.internal:5432", "db.internal.:5432", "db internal:5432", "db_internal.:1", "http://db:80", "db:80/tcp", "app.*:80",
		"10.0.0.1/8:*", "10.0.0.0/33:*", "10.0.0:80", "127.1:80", "0x7f.1:80", "2130706433:80", "10.0.0.0/8",
		"2001:db8::1:22", "[2001:db8::1:22", "[2001:db8::1]", "[2001:db8::1]22", "[10.0.0.1]:22", "[db.internal]:22",
		"[::ffff:10.0.0.1]:22", "[::ffff:10.0.0.0/104]:22", "[fe80::1%eth0]:22", "[2001:db8::1/32]:22", "[]:22", "[[::1]]:22", "@office/ssh:22",
	} {
		if got, err := auth.ParseForwardRule(in); err == nil {
			t.Errorf("ParseForwardRule(%q): got %v, want an error", in, got)
		}
	}
}

func TestAllowsForward(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		rules string // separated by spaces
		host  string
		addr  string
		want  bool
	}{
		{"", "db.internal", "10.0.0.1:5432", false},
		{"db.internal:5432", "db.internal", "10.0.0.1:5432", true},
		{"db.internal:5432", "db.internal", "10.0.0.1:5433", false},
		{"db.internal:5432", "db.internal", "10.0.0.1:0", false},
		{"db.internal:*", "db.internal", "10.0.0.1:0", false},
		{"db.internal:5432", "other.internal", "10.0.0.1:5432", false},
		{"db.internal:5432", "10.0.0.1", "10.0.0.1:5432", false},
		{"*.internal:1-1024", "db.internal", "10.0.0.1:1024", true},
		{"*.internal:1-1024", "a.db.internal", "10.0.0.1:1024", false},
		{"*:443", "anything.test", "192.0.2.1:443", true},
		{"*:443", "192.0.2.1", "192.0.2.1:443", true},
		{"10.0.0.0/8:*", "10.1.2.3", "10.1.2.3:80", true},
		{"10.0.0.0/8:*", "db.internal", "10.1.2.3:80", true}, // by what it resolves to
		{"10.0.0.0/8:*", "db.internal", "11.1.2.3:80", false},
		{"[2001:db8::/32]:443", "x.test", "[2001:db8::1]:443", true},

		// Encodings of a name and of an address.
		{"db.internal:5432", "DB.Internal.", "10.0.0.1:5432", true},
		{"db.internal:5432", "db.internal..", "10.0.0.1:5432", false},
		{"db.internal:5432", "db.internal\x00", "10.0.0.1:5432", false},
		{"kube.internal:5432", "\u212aube.internal", "10.0.0.1:5432", false}, // a Kelvin sign, whose lower case is k
		{"*.internal:*", "\uff41.internal", "10.0.0.1:5432", false},
		{"*.internal:*", ".internal", "10.0.0.1:5432", false},
		{"*.internal:*", "x_y.internal", "10.0.0.1:5432", false},
		{"*.internal:*", "*.internal", "10.0.0.1:5432", false},
		{"*.internal:*", "a%2e.internal", "10.0.0.1:5432", false},
		{"*:*", "", "10.0.0.1:5432", false},
		{"10.0.0.0/8:*", "", "10.0.0.1:5432", false},
		{"10.0.0.0/8:*", "::ffff:10.0.0.1", "[::ffff:10.0.0.1]:80", true},
		{"10.0.0.0/8:*", "10.0.0.1", "[::ffff:10.0.0.1]:80", true},
		{"[2001:db8::/32]:*", "::ffff:10.0.0.1", "[::ffff:10.0.0.1]:80", false},
		{"*:*", "127.1", "10.0.0.1:80", false},
		{"*:*", "0x7f.1", "10.0.0.1:80", false},
		{"10.0.0.0/8:*", "10.0.0.1", "11.0.0.1:80", false}, // not what was asked for
		{"10.0.0.0/8:*", "11.0.0.1", "10.0.0.1:80", false},
		{"[fe80::/10]:*", "fe80::1%eth0", "[fe80::1%eth0]:80", false},

		// This machine, its link and metadata take a rule of their own.
		{"*:*", "localhost", "127.0.0.1:80", false},
		{"*:*", "rebound.test", "127.0.0.1:80", false},
		{"rebound.test:80", "rebound.test", "127.0.0.1:80", false},
		{"rebound.test:80", "rebound.test", "169.254.169.254:80", false},
		{"*.internal:80", "metadata.google.internal", "169.254.169.254:80", false},
		{"0.0.0.0/0:*", "127.0.0.1", "127.0.0.1:80", false},
		{"0.0.0.0/0:*", "169.254.169.254", "169.254.169.254:80", false},
		{"0.0.0.0/0:*", "192.0.2.1", "192.0.2.1:80", true},
		{"[::/0]:*", "::1", "[::1]:80", false},
		{"[::/0]:*", "fd00:ec2::254", "[fd00:ec2::254]:80", false},
		{"[::/0]:*", "64:ff9b::7f00:1", "[64:ff9b::7f00:1]:80", false},
		{"[::/0]:*", "2001:db8::1", "[2001:db8::1]:80", true},
		{"*:*", "127.0.0.1", "[::ffff:127.0.0.1]:80", false},
		{"localhost:80", "localhost", "127.0.0.1:80", true},
		{"localhost:80", "localhost", "[::1]:80", true},
		{"localhost:80", "localhost", "169.254.169.254:80", false},
		{"127.0.0.0/8:80", "localhost", "127.0.0.1:80", true},
		{"127.0.0.1:80", "127.0.0.1", "127.0.0.1:80", true},
		{"169.254.169.254:80", "169.254.169.254", "169.254.169.254:80", true},
		{"0.0.0.0/8:*", "0.0.0.0", "0.0.0.0:80", false}, // would be this machine
		{"[::/0]:*", "::", "[::]:80", false},
		{"224.0.0.0/4:*", "224.0.0.1", "224.0.0.1:80", false},
		{"[::/0]:*", "::ffff:0:127.0.0.1", "[::ffff:0:127.0.0.1]:80", false},             // translated (RFC 2765)
		{"[::/0]:*", "2001:0:7f00:1::80ff:fffe", "[2001:0:7f00:1::80ff:fffe]:80", false}, // Teredo
		{"[::/0]:*", "2002:7f00:1::1", "[2002:7f00:1::1]:80", false},                     // 6to4
		{"[::/0]:*", "fd00:ec2::23", "[fd00:ec2::23]:80", false},                         // Amazon EKS
		{"[::/0]:*", "fd20:ce::254", "[fd20:ce::254]:80", false},                         // Google
		{"[::/0]:*", "fd00:c1::a9fe:a9fe", "[fd00:c1::a9fe:a9fe]:80", false},             // Oracle
		{"[::/0]:*", "fd00:42::42", "[fd00:42::42]:80", false},                           // Scaleway
		{"0.0.0.0/0:*", "169.254.170.2", "169.254.170.2:80", false},                      // Amazon ECS
		{"0.0.0.0/0:*", "100.100.100.200", "100.100.100.200:80", false},                  // Alibaba
		{"100.64.0.0/10:*", "100.100.100.200", "100.100.100.200:80", false},
		{"0.0.0.0/0:*", "168.63.129.16", "168.63.129.16:80", false}, // Azure
		{"0.0.0.0/0:*", "192.0.0.192", "192.0.0.192:80", false},     // Oracle

		// Who opens a network that stands for IPv4 has not opened what is special there.
		{"[64:ff9b::/96]:*", "64:ff9b::c000:201", "[64:ff9b::c000:201]:80", true},
		{"[64:ff9b::/96]:*", "64:ff9b::7f00:1", "[64:ff9b::7f00:1]:80", false},
		{"[64:ff9b::/96]:*", "64:ff9b::a9fe:a9fe", "[64:ff9b::a9fe:a9fe]:80", false},
		{"[64:ff9b::a9fe:a9fe]:*", "64:ff9b::a9fe:a9fe", "[64:ff9b::a9fe:a9fe]:80", true},
		{"[2002::/16]:*", "2002:a9fe:a9fe::1", "[2002:a9fe:a9fe::1]:80", false},
		{"[2002:a9fe:a9fe::/48]:*", "2002:a9fe:a9fe::1", "[2002:a9fe:a9fe::1]:80", true},
		{"[::/96]:*", "::7f00:1", "[::7f00:1]:80", false},
		{"[::1]:*", "::1", "[::1]:80", true},
		{"0.0.0.0/0:*", "255.255.255.255", "255.255.255.255:80", false},
	} {
		var s auth.Scope
		for _, r := range strings.Fields(tt.rules) {
			rule, err := auth.ParseForwardRule(r)
			if err != nil {
				t.Fatal(err)
			}
			s.Forward = append(s.Forward, rule)
		}
		if got := s.AllowsForward(tt.host, netip.MustParseAddrPort(tt.addr)); got != tt.want {
			t.Errorf("rules %q: AllowsForward(%q, %s): got %v, want %v", tt.rules, tt.host, tt.addr, got, tt.want)
		}
	}
	if auth.Everything().AllowsForward("example.com", netip.MustParseAddrPort("192.0.2.1:443")) {
		t.Error("the shared secret forwards without a rule")
	}
	if (auth.Scope{Forward: []auth.ForwardRule{{}}}).AllowsForward("example.com", netip.MustParseAddrPort("192.0.2.1:443")) {
		t.Error("the zero rule forwards")
	}
}

// An address of the server's own machine takes more than a rule about all.
func TestAllowsForwardHere(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		rule, host string
		want       bool
	}{
		{"*:*", "192.0.2.7", false},
		{"*:*", "self.test", false},
		{"0.0.0.0/0:*", "192.0.2.7", false},
		{"192.0.2.0/24:*", "192.0.2.7", true},
		{"192.0.2.7:80", "self.test", true},
		{"*.test:80", "self.test", true},
		{"*.test:80", "other.example", false},
	} {
		r, err := auth.ParseForwardRule(tt.rule)
		if err != nil {
			t.Fatal(err)
		}
		s := auth.Scope{Forward: []auth.ForwardRule{r}}
		if got := s.AllowsForwardHere(tt.host, netip.MustParseAddrPort("192.0.2.7:80")); got != tt.want {
			t.Errorf("rule %s: AllowsForwardHere(%q): got %v, want %v", tt.rule, tt.host, got, tt.want)
		}
	}
}

func FuzzParseForwardRule(f *testing.F) {
	for _, s := range []string{"db.internal:5432", "10.0.0.0/8:*", "[2001:db8::/32]:443", "*:1-1024", "@office/ssh", "unix:/run/app"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := auth.ParseForwardRule(s)
		if err != nil {
			return
		}
		if again, err := auth.ParseForwardRule(r.String()); err != nil || again != r {
			t.Errorf("%q gives %v, which gives %v, %v", s, r, again, err)
		}
		kinds := 0
		for _, is := range []bool{r.Host != "", r.Prefix.IsValid(), r.Socket != "", r.ID != "" && r.Service != ""} {
			if is {
				kinds++
			}
		}
		if hasPorts := r.Host != "" || r.Prefix.IsValid(); kinds != 1 || hasPorts == (r.Ports.First == 0) {
			t.Errorf("%q gives %+v", s, r)
		}
	})
}
