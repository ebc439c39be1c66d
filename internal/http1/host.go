package http1

import "bytes"

// SplitHost splits the value of a Host field into the host, with the brackets
// of an IPv6 address, and the port, which is empty if there is none. It reports
// false if the value is not a registered name of letters, digits, '-', '.' and
// '_', an IPv4 address or an IPv6 address in brackets, with an optional port of
// digits up to 65535.
func SplitHost(b []byte) (host, port []byte, ok bool) {
	end := 0
	if len(b) > 0 && b[0] == '[' {
		end = bytes.IndexByte(b, ']') + 1
		if end < 4 {
			return nil, nil, false
		}
		for _, c := range b[1 : end-1] {
			if !isHex(c) && c != ':' && c != '.' {
				return nil, nil, false
			}
		}
	} else {
		for end < len(b) && class[b[end]]&isHost != 0 {
			end++
		}
	}
	if end == 0 || end > 255+2 {
		return nil, nil, false
	}
	host, rest := b[:end], b[end:]
	if len(rest) == 0 {
		return host, nil, true
	}
	if rest[0] != ':' || len(rest) < 2 || len(rest) > 6 {
		return nil, nil, false
	}
	n := 0
	for _, c := range rest[1:] {
		if c < '0' || c > '9' {
			return nil, nil, false
		}
		n = n*10 + int(c-'0')
	}
	return host, rest[1:], n <= 65535
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || lower(c) >= 'a' && lower(c) <= 'f'
}
