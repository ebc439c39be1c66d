// Package clienthello reads the name that a TLS client asks for out of its
// first message, without taking part in the handshake (RFC 8446, section 4.1.2,
// and RFC 6066, section 3).
//
//	var s clienthello.Scanner
//	for {
//		done, err := s.Scan(buf) // all bytes so far
//		if done || err != nil {
//			break
//		}
//		buf = readMore(buf)
//	}
//	hello, err := s.Hello()
//
// It takes a message that is spread over many packets and records, bounds what
// it keeps, and refuses what could be read in two ways.
package clienthello

import "strings"

// Bounds of what is read before a message is refused.
const (
	MaxMessage    = 16 << 10 // bytes of the message
	MaxRecords    = 256      // that it is spread over
	maxExtensions = 256
)

// MaxBytes is the most that Scan has to be given.
const MaxBytes = MaxMessage + MaxRecords*recordHeader

const (
	recordHeader  = 5
	maxRecord     = 1 << 14
	messageHeader = 4

	typeHandshake   = 22
	typeClientHello = 1

	extServerName = 0
	extALPN       = 16
	extECH        = 0xfe0d // RFC 9849

	nameHost = 0
)

// A Hello is what a ClientHello asks for.
type Hello struct {
	// ServerName is the hostname in lower case and without a dot at its end.
	// It is empty if there is none, or if it is an IP address, which must not
	// be there.
	ServerName string

	// Protocols are those that the client offers by ALPN (RFC 7301).
	Protocols []string

	// ECH says that the message has an encrypted one inside (RFC 9849), or
	// pretends to. ServerName is then the outer name.
	ECH bool
}

// A Scanner puts a ClientHello together while it arrives. Its zero value is
// ready to use.
type Scanner struct {
	at      int    // where in the bytes the next record begins
	records int    // before that
	message []byte // what they held
	done    bool
}

// Scan looks at buf, which is all that has arrived: what it was given before,
// with more at its end. It reports whether the message is complete; what is
// behind it does not matter. The error is an *Error.
func (s *Scanner) Scan(buf []byte) (done bool, err error) {
	for !s.done {
		b := buf[s.at:]
		if err := s.checkHeader(b); err != nil || len(b) < recordHeader {
			return false, err
		}
		n := int(b[3])<<8 | int(b[4])
		if len(s.message) >= messageHeader && len(s.message)+n > messageHeader+messageLength(s.message) {
			return false, ErrSurplus
		}
		if b = b[recordHeader:]; len(b) < n {
			return false, s.checkMessage(b)
		}
		if err := s.checkMessage(b[:n]); err != nil {
			return false, err
		}
		s.message = append(s.message, b[:n]...)
		s.at += recordHeader + n
		if s.records++; s.records > MaxRecords {
			return false, ErrTooLarge
		}
		if len(s.message) >= messageHeader {
			end := messageHeader + messageLength(s.message)
			s.done = len(s.message) == end
			if len(s.message) > end {
				return false, ErrSurplus
			}
		}
	}
	return true, nil
}

// checkHeader checks as much as there is of the header of a record.
func (s *Scanner) checkHeader(b []byte) error {
	switch {
	case len(b) > 0 && b[0] != typeHandshake:
		if s.records == 0 {
			return ErrNotTLS
		}
		return ErrUnexpected
	case len(b) > 1 && b[1] != 3:
		return ErrNotTLS
	case len(b) < recordHeader:
		return nil
	}
	switch n := int(b[3])<<8 | int(b[4]); {
	case n == 0:
		return ErrEmptyRecord
	case n > maxRecord:
		return ErrRecordSize
	}
	return nil
}

// checkMessage checks as much as there is of the header of the message, of
// which more is the next part.
func (s *Scanner) checkMessage(more []byte) error {
	var header [messageHeader]byte
	n := copy(header[:], s.message)
	n += copy(header[n:], more)
	switch {
	case n > 0 && header[0] != typeClientHello:
		return ErrUnexpected
	case n == messageHeader && messageHeader+messageLength(header[:]) > MaxMessage:
		return ErrTooLarge
	}
	return nil
}

func messageLength(header []byte) int {
	return int(header[1])<<16 | int(header[2])<<8 | int(header[3])
}

// Hello returns what the message says, after Scan has reported that it is
// complete. The error is an *Error.
func (s *Scanner) Hello() (Hello, error) {
	if !s.done {
		panic("clienthello: Hello before the message is complete")
	}
	b := reader(s.message[messageHeader:])
	var sessionID, suites, compressions, extensions reader
	if !b.skip(2+32) || !b.vector8(&sessionID) || !b.vector16(&suites) || !b.vector8(&compressions) ||
		len(sessionID) > 32 || len(suites) == 0 || len(suites)%2 != 0 || len(compressions) == 0 {
		return Hello{}, ErrMalformed
	}
	if len(b) == 0 {
		return Hello{}, nil // as before there were extensions
	}
	if !b.vector16(&extensions) || len(b) != 0 {
		return Hello{}, ErrMalformed
	}
	return parseExtensions(extensions)
}

func parseExtensions(b reader) (h Hello, err error) {
	seen := make([]uint16, 0, 32)
	for len(b) > 0 {
		var kind uint16
		var body reader
		if !b.uint16(&kind) || !b.vector16(&body) {
			return Hello{}, ErrMalformed
		}
		for _, k := range seen {
			if k == kind {
				return Hello{}, ErrDuplicate
			}
		}
		if len(seen) == maxExtensions {
			return Hello{}, ErrTooLarge
		}
		seen = append(seen, kind)
		switch kind {
		case extServerName:
			h.ServerName, err = parseServerName(body)
		case extALPN:
			h.Protocols, err = parseProtocols(body)
		case extECH:
			h.ECH = true
		}
		if err != nil {
			return Hello{}, err
		}
	}
	return h, nil
}

func parseServerName(b reader) (string, error) {
	var list reader
	if !b.vector16(&list) || len(b) != 0 || len(list) == 0 {
		return "", ErrMalformed
	}
	name, found := "", false
	for len(list) > 0 {
		var kind uint8
		var value reader
		if !list.uint8(&kind) || !list.vector16(&value) || len(value) == 0 {
			return "", ErrMalformed
		}
		if kind != nameHost {
			continue
		}
		if found {
			return "", ErrDuplicate
		}
		found = true
		var ok bool
		if name, ok = normal(string(value)); !ok {
			return "", ErrServerName
		}
	}
	return name, nil
}

func parseProtocols(b reader) (all []string, err error) {
	var list reader
	if !b.vector16(&list) || len(b) != 0 || len(list) == 0 {
		return nil, ErrMalformed
	}
	for len(list) > 0 {
		var p reader
		if !list.vector8(&p) || len(p) == 0 {
			return nil, ErrMalformed
		}
		all = append(all, string(p))
	}
	return all, nil
}

// normal returns a name as it is compared, and empty text for an address. It
// reports false for what can be neither.
func normal(s string) (string, bool) {
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > 253 {
		return "", false
	}
	if isAddress(s) {
		return "", true
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			return "", false
		}
	}
	for i := range len(s) { // not runes: some beyond ASCII have lower case in it
		if c := s[i] | 0x20; !(c >= 'a' && c <= 'z' || s[i] >= '0' && s[i] <= '9' || s[i] == '-' || s[i] == '_' || s[i] == '.') {
			return "", false
		}
	}
	return strings.ToLower(s), true
}
