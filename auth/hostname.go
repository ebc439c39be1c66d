package auth

import (
	"fmt"
	"strings"

	"adit/tunnel"
)

// anyHost is the pattern of all hostnames.
const anyHost = "*"

// CheckHostPattern checks a pattern of hostnames: "*", which stands for every
// name, or a hostname as tunnel.CheckHostname takes it in whose labels, but for
// the last, '*' stands for any run of characters. No '*' stands for a dot:
// "*.example.com" matches a.example.com, and neither example.com nor
// a.b.example.com.
func CheckHostPattern(p string) error {
	if p == anyHost {
		return nil
	}
	if strings.Contains(p[strings.LastIndexByte(p, '.')+1:], "*") {
		return fmt.Errorf("hostname pattern %.80q has '*' in its last label: want a name such as *.example.com, or '*' alone for every name", p)
	}
	if err := tunnel.CheckHostname(strings.ReplaceAll(p, "*", "x")); err != nil {
		return fmt.Errorf("hostname pattern %.80q: want a name in lower case such as app.example.com or *.example.com, without port or trailing dot", p)
	}
	return nil
}

// matchHost reports whether pattern matches a hostname, label by label.
func matchHost(pattern, host string) bool {
	if pattern == anyHost {
		return true
	}
	for {
		p, morePattern, moreP := strings.Cut(pattern, ".")
		h, moreHost, moreH := strings.Cut(host, ".")
		if !match(p, h) || moreP != moreH {
			return false
		}
		if !moreP {
			return true
		}
		pattern, host = morePattern, moreHost
	}
}
