package tunnel

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// MaxHostnameLen is the longest hostname in bytes (RFC 1035, section 2.3.4).
const MaxHostnameLen = 253

// CheckHostname checks a public hostname: labels of 1 to 63 of the characters
// a-z, 0-9 and '-', with no '-' at either end of one, joined by dots, without
// port or trailing dot, and not an IP address in any notation. Names of other
// scripts are in their punycode form (RFC 5891). Nothing is folded, so that a
// name has one spelling wherever it is compared.
func CheckHostname(s string) error {
	switch {
	case s == "":
		return errors.New("hostname is empty: want a name such as app.example.com")
	case len(s) > MaxHostnameLen:
		return fmt.Errorf("hostname %.40q… has %d bytes: it takes at most %d", s, len(s), MaxHostnameLen)
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return fmt.Errorf("hostname %q is an address: want a name such as app.example.com", s)
	}
	last := ""
	for label := range strings.SplitSeq(s, ".") {
		if err := checkLabel(label); err != nil {
			return fmt.Errorf("hostname %q: %w", s, err)
		}
		last = label
	}
	// Resolvers and browsers take what ends in a number for an IPv4 address,
	// also 127.1 and 0x7f.1.
	if last[0] >= '0' && last[0] <= '9' && isNumber(last) {
		return fmt.Errorf("hostname %q ends in a number, as an address does: want a name such as app.example.com", s)
	}
	return nil
}

// checkLabel checks a label of a hostname.
func checkLabel(s string) error {
	switch {
	case s == "":
		return errors.New("it has an empty label: want a name such as app.example.com, without a dot at either end")
	case len(s) > MaxIDLen:
		return fmt.Errorf("a label of %d bytes: it takes 1 to %d", len(s), MaxIDLen)
	case s[0] == '-' || s[len(s)-1] == '-':
		return fmt.Errorf("label %q starts or ends with '-'", s)
	}
	for _, r := range s {
		if !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-') {
			return fmt.Errorf("%q: only a-z, 0-9, '-' and dots are allowed", r)
		}
	}
	return nil
}

// isNumber reports whether s is a number as in an IPv4 address: decimal, octal
// or hexadecimal.
func isNumber(s string) bool {
	digits := "0123456789"
	if rest, ok := strings.CutPrefix(s, "0x"); ok {
		s, digits = rest, "0123456789abcdef"
	}
	return strings.Trim(s, digits) == ""
}
