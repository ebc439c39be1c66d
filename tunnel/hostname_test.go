package tunnel_test

import (
	"strings"
	"testing"

	"adit/tunnel"
)

func TestCheckHostname(t *testing.T) {
	t.Parallel()
	long := strings.Repeat(strings.Repeat("a", 63)+".", 3) // 192 bytes
	for _, s := range []string{
		"app.example.com", "localhost", "a", "xn--bcher-kva.example", "1.example.com", "3com", "0xample.1a", "a-b.c--d.e",
		long + strings.Repeat("a", 61), "0xyz",
	} {
		if err := tunnel.CheckHostname(s); err != nil {
			t.Errorf("CheckHostname(%q): %v, want it accepted", s, err)
		}
	}
	for name, s := range map[string]string{
		"empty": "", "dot": ".", "trailing dot": "example.com.", "leading dot": ".example.com", "empty label": "a..b",
		"upper case": "App.example.com", "port": "example.com:443", "wildcard": "*.example.com", "underscore": "a_b.example.com",
		"starts with a dash": "-a.example.com", "ends with a dash": "a-.example.com", "space": "a b", "NUL": "a\x00b",
		"not ASCII": "bücher.example", "not UTF-8": "a\xff", "long label": strings.Repeat("a", 64), "too long": long + strings.Repeat("a", 62),
		"IPv4": "127.0.0.1", "short IPv4": "127.1", "number": "2130706433", "octal": "0177.0.0.1", "hexadecimal": "0x7f.1", "bare 0x": "a.0x",
		"IPv6": "::1", "IPv6 in brackets": "[::1]", "IPv6 with zone": "fe80::1%eth0", "slash": "a/b", "at": "a@b",
	} {
		if err := tunnel.CheckHostname(s); err == nil {
			t.Errorf("%s: CheckHostname(%q): got no error", name, s)
		}
	}
}
