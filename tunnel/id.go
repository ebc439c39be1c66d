package tunnel

import (
	"fmt"
	"strings"
)

// An ID is the stable name that an agent registers under; it outlives the
// agent's tunnels. Each dialect has its own rule for what is a valid one:
// ParseID has the native rule.
type ID string

// MaxIDLen is the longest native ID in bytes: that of a DNS label (RFC 1035,
// section 2.3.4), since an ID is one in <id>.<domain>.
const MaxIDLen = 63

// reserved are IDs that visitors would take for the operator's own, or that
// mail and certificate authorities attach a meaning to (RFC 2142).
var reserved = map[string]bool{
	"abuse": true, "admin": true, "administrator": true, "adit": true,
	"api": true, "autoconfig": true, "autodiscover": true, "hostmaster": true,
	"localhost": true, "mail": true, "postmaster": true, "root": true,
	"security": true, "ssladmin": true, "status": true, "webmaster": true,
	"wpad": true, "www": true,
}

// ParseID checks a native ID: 1 to 63 of the characters a-z, 0-9 and '-', no
// '-' at either end, no "--" in the third and fourth place (which would make it
// a punycode look-alike, RFC 5891, section 4.2.3.1), and not a reserved name.
// It changes nothing: upper case is refused and not folded, so that one agent
// has one spelling.
func ParseID(s string) (ID, error) {
	switch {
	case s == "":
		return "", fmt.Errorf("id is empty: it takes 1 to %d of a-z, 0-9 and '-'", MaxIDLen)
	case len(s) > MaxIDLen:
		return "", fmt.Errorf("id %.20q… has %d bytes: it takes 1 to %d", s, len(s), MaxIDLen)
	}
	for i, r := range s {
		if !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-') {
			return "", fmt.Errorf("id %q has %q at byte %d: only a-z, 0-9 and '-' are allowed", s, r, i)
		}
	}
	if strings.HasPrefix(s, "-") || strings.HasSuffix(s, "-") {
		return "", fmt.Errorf("id %q starts or ends with '-'", s)
	}
	if len(s) >= 4 && s[2:4] == "--" {
		return "", fmt.Errorf("id %q has '--' in third place, which is kept for punycode names", s)
	}
	if reserved[s] {
		return "", fmt.Errorf("id %q is reserved", s)
	}
	return ID(s), nil
}
