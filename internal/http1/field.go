package http1

import "bytes"

// A Field is one header or trailer field.
type Field struct {
	Name, Value []byte // without white space around Value
	Kind        Kind
	// Hop says that the field is for the next hop alone: it is one of those
	// that always are, or Connection names it (RFC 9110, section 7.6.1).
	Hop bool
}

// A Kind tells apart the fields that a relay treats in a way of its own.
type Kind uint8

const (
	Other Kind = iota
	Host
	ContentLength
	TransferEncoding
	Connection
	Upgrade
	HopByHop // Keep-Alive, Proxy-Connection and the like
	TE
	Trailer
	Expect
	Forwarded      // RFC 7239
	ForwardedFor   // X-Forwarded-For
	ForwardedProto // X-Forwarded-Proto
	ForwardedHost  // X-Forwarded-Host
	ForwardedOther // any other X-Forwarded-…, and X-Real-Ip
	Adit           // any Adit-…
	Lookalike      // one of the above but Other, written with '_' for '-'
	Accept
	Date
	Location
	SetCookie
)

// KindOf returns the kind of a field name, for whoever has parsed the fields in
// another way.
func KindOf(name []byte) Kind {
	if len(name) == 0 {
		return Other
	}
	return kindOf(name)
}

// kindOf classifies a valid field name.
func kindOf(name []byte) Kind {
	// Gateway interfaces fold '-' and '_' into one (RFC 3875, section
	// 4.1.18), so that a name with '_' could pass for one of ours.
	if len(name) <= 32 && bytes.IndexByte(name, '_') >= 0 {
		var dashed [32]byte
		n := copy(dashed[:], name)
		for i := range n {
			if dashed[i] == '_' {
				dashed[i] = '-'
			}
		}
		if k := kindOf(dashed[:n]); k != Other {
			return Lookalike
		}
		return Other
	}
	switch lower(name[0]) {
	case 'a':
		switch {
		case EqualFold(name, "accept"):
			return Accept
		case hasPrefixFold(name, "adit-"):
			return Adit
		}
	case 'c':
		switch {
		case EqualFold(name, "content-length"):
			return ContentLength
		case EqualFold(name, "connection"):
			return Connection
		}
	case 'd':
		if EqualFold(name, "date") {
			return Date
		}
	case 'e':
		if EqualFold(name, "expect") {
			return Expect
		}
	case 'f':
		if EqualFold(name, "forwarded") {
			return Forwarded
		}
	case 'h':
		switch {
		case EqualFold(name, "host"):
			return Host
		case EqualFold(name, "http2-settings"):
			return HopByHop
		}
	case 'k':
		if EqualFold(name, "keep-alive") {
			return HopByHop
		}
	case 'l':
		if EqualFold(name, "location") {
			return Location
		}
	case 'p':
		if EqualFold(name, "proxy") || hasPrefixFold(name, "proxy-") {
			return HopByHop
		}
	case 's':
		if EqualFold(name, "set-cookie") {
			return SetCookie
		}
	case 't':
		switch {
		case EqualFold(name, "te"):
			return TE
		case EqualFold(name, "trailer"):
			return Trailer
		case EqualFold(name, "transfer-encoding"):
			return TransferEncoding
		}
	case 'u':
		if EqualFold(name, "upgrade") {
			return Upgrade
		}
	case 'x':
		switch {
		case EqualFold(name, "x-real-ip"):
			return ForwardedOther
		case !hasPrefixFold(name, "x-forwarded-"):
		case EqualFold(name[12:], "for"):
			return ForwardedFor
		case EqualFold(name[12:], "proto"):
			return ForwardedProto
		case EqualFold(name[12:], "host"):
			return ForwardedHost
		default:
			return ForwardedOther
		}
	}
	return Other
}

// maxOptions bounds the options of all Connection fields of a message: each is
// looked up among all fields.
const maxOptions = 32

// connection is what the Connection fields of a message say.
type connection struct {
	close, keepAlive, upgrade bool
}

// parseFields appends the fields of lines, each of which ends with CRLF, to
// dst, and marks those that are for one hop.
func parseFields(dst []Field, lines []byte, limit int) ([]Field, connection, error) {
	var conn connection
	start, named := len(dst), false
	for len(lines) > 0 {
		if len(dst)-start == limit {
			return dst, conn, ErrTooManyFields
		}
		end := bytes.IndexByte(lines, '\r')
		if end < 0 || end+1 == len(lines) || lines[end+1] != '\n' {
			return dst, conn, ErrBareCR
		}
		line := lines[:end]
		lines = lines[end+2:]
		if len(line) > 0 && (line[0] == ' ' || line[0] == '\t') {
			return dst, conn, ErrFold
		}
		colon := 0
		for colon < len(line) && class[line[colon]]&isToken != 0 {
			colon++
		}
		if colon == len(line) || line[colon] != ':' {
			if colon > 0 && colon < len(line) && (line[colon] == ' ' || line[colon] == '\t') {
				return dst, conn, ErrFieldSpace
			}
			return dst, conn, ErrFieldName
		}
		if colon == 0 {
			return dst, conn, ErrFieldName
		}
		f := Field{Name: line[:colon], Value: trim(line[colon+1:])}
		if !all(f.Value, isValue) {
			return dst, conn, ErrFieldValue
		}
		f.Kind = kindOf(f.Name)
		switch f.Kind {
		case Connection:
			f.Hop, named = true, true
		case HopByHop, TE, TransferEncoding, Upgrade, Trailer:
			f.Hop = true
		}
		dst = append(dst, f)
	}
	if !named {
		return dst, conn, nil
	}
	options := 0
	for _, f := range dst[start:] {
		if f.Kind != Connection {
			continue
		}
		for list := f.Value; list != nil; {
			var t []byte
			if t, list = NextToken(list); len(t) == 0 {
				continue
			}
			if options++; options > maxOptions {
				return dst, conn, ErrConnectionTokens
			}
			switch {
			case EqualFold(t, "close"):
				conn.close = true
			case EqualFold(t, "keep-alive"):
				conn.keepAlive = true
			case EqualFold(t, "upgrade"):
				conn.upgrade = true
			default:
				markHop(dst[start:], t)
			}
		}
	}
	return dst, conn, nil
}

// markHop marks the fields of that name, except those that say whom the message
// is for or where it ends: a sender must not be able to take them out.
func markHop(fields []Field, name []byte) {
	for i := range fields {
		if !equalFoldBytes(fields[i].Name, name) {
			continue
		}
		switch fields[i].Kind {
		case Host, ContentLength, Forwarded, ForwardedFor, ForwardedProto, ForwardedHost, ForwardedOther:
		default:
			fields[i].Hop = true
		}
	}
}

// parseLength parses a Content-Length. Signs, lists and white space inside are
// refused.
func parseLength(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	var n int64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// IsToken reports whether s is a token (RFC 9110, section 5.6.2), as the name of
// a field or a method is.
func IsToken(s string) bool { return s != "" && all([]byte(s), isToken) }

// IsValue reports whether s may be the value of a field.
func IsValue(s string) bool { return all([]byte(s), isValue) }

// SplitQuoted splits the value of a header field at sep, where that is not in a
// quoted string (RFC 9110, section 5.6.4).
func SplitQuoted(s string, sep byte) (parts []string) {
	quoted, start := false, 0
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == sep && !quoted:
			parts = append(parts, s[start:i])
			start = i + 1
		}
	}
	return append(parts, s[start:])
}
