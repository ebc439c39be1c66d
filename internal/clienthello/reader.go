package clienthello

import "net/netip"

// A reader takes numbers and vectors off its front (RFC 8446, section 3). Its
// methods report false if there are too few bytes.
type reader []byte

func (r *reader) skip(n int) bool {
	if len(*r) < n {
		return false
	}
	*r = (*r)[n:]
	return true
}

func (r *reader) uint8(v *uint8) bool {
	if len(*r) < 1 {
		return false
	}
	*v = (*r)[0]
	*r = (*r)[1:]
	return true
}

func (r *reader) uint16(v *uint16) bool {
	if len(*r) < 2 {
		return false
	}
	*v = uint16((*r)[0])<<8 | uint16((*r)[1])
	*r = (*r)[2:]
	return true
}

// vector8 takes a vector whose length is in one byte, vector16 in two.
func (r *reader) vector8(v *reader) bool {
	var n uint8
	return r.uint8(&n) && r.take(int(n), v)
}

func (r *reader) vector16(v *reader) bool {
	var n uint16
	return r.uint16(&n) && r.take(int(n), v)
}

func (r *reader) take(n int, v *reader) bool {
	if len(*r) < n {
		return false
	}
	*v, *r = (*r)[:n], (*r)[n:]
	return true
}

// isAddress reports whether a server name is an IP address, with or without
// the brackets of a URL.
func isAddress(s string) bool {
	if len(s) > 2 && s[0] == '[' && s[len(s)-1] == ']' {
		s = s[1 : len(s)-1]
	}
	a, err := netip.ParseAddr(s)
	return err == nil && a.Zone() == ""
}
