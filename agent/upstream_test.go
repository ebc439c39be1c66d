package agent_test

import (
	"strings"
	"testing"

	"adit/agent"
)

func TestParseUpstream(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ in, want, err string }{
		{"3000", "localhost:3000", ""},
		{"65535", "localhost:65535", ""},
		{":3000", "localhost:3000", ""},
		{"127.0.0.1:80", "127.0.0.1:80", ""},
		{"[::1]:80", "[::1]:80", ""},
		{"db.internal:5432", "db.internal:5432", ""},
		{"tcp://db.internal:5432", "db.internal:5432", ""},
		{"http://web", "web:80", ""},
		{"http://web/", "web:80", ""},
		{"http://web:8080", "web:8080", ""},
		{"http://[::1]:8080", "[::1]:8080", ""},
		{"https://web", "https://web:443", ""},
		{"https://web:8443", "https://web:8443", ""},
		{"h2c://localhost:50051", "h2c://localhost:50051", ""},
		{"h2c://web", "h2c://web:80", ""},
		{"h2://web", "h2://web:443", ""},
		{"unix:/run/app.sock", "unix:/run/app.sock", ""},
		{"unix:///run/app.sock", "unix:/run/app.sock", ""},
		{"", "", `upstream ""`},
		{"0", "", "1 to 65535"},
		{"65536", "", "1 to 65535"},
		{"-1", "", "1 to 65535"},
		{"localhost", "", `upstream "localhost"`},
		{"host:http", "", "1 to 65535"},
		{"::1:80", "", "want a port"},
		{"tcp://db.internal", "", "1 to 65535"},
		{"udp://db.internal:53", "udp://db.internal:53", ""},
		{"http://", "", "not a URL with a host"},
		{"http://web/path", "", "more than a host"},
		{"http://web?x=y", "", "more than a host"},
		{"http://user:hunter2@web", "", "more than a host"},
		{"ftp://web", "", "http, https, h2c, h2, tcp, udp and unix"},
		{"unix:", "", "no socket"},
		{"unix://", "", "no socket"},
	} {
		u, err := agent.ParseUpstream(tt.in)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("ParseUpstream(%q): %v, %v; want an error with %q and no password", tt.in, u, err, tt.err)
			}
			continue
		}
		if err != nil || u.String() != tt.want {
			t.Errorf("ParseUpstream(%q): %v, %v; want %v", tt.in, u, err, tt.want)
			continue
		}
		if again, err := agent.ParseUpstream(u.String()); err != nil || again.String() != tt.want {
			t.Errorf("ParseUpstream(%q): %v, %v; want what it was before", u.String(), again, err)
		}
	}
}
