// Package http1 parses the heads and the body framing of HTTP/1.0 and HTTP/1.1
// messages (RFC 9112) on bytes that the caller has read. It allocates nothing
// of its own: what it returns are slices of the caller's buffer.
//
//	var s http1.Scanner
//	for end == 0 {
//		buf = read(buf)
//		end, err = s.Request(buf)
//	}
//	err = req.Parse(buf[:end], limits)
//
// It is strict where two readers of the same bytes could disagree about where
// a message ends or whom it is for (RFC 9112, section 11.2): such messages are
// refused, not repaired.
package http1

// An Error says why a message was refused. All of them are package-level
// values, so comparing pointers is enough to tell them apart.
type Error struct {
	Status int    // what a server answers to a request that has it
	Reason string // for people; never holds bytes of the message
}

func (e *Error) Error() string { return e.Reason }

func bad(reason string) *Error { return &Error{400, reason} }

// What is wrong with a message.
var (
	ErrBareLF           = bad("a line ends with a bare LF")
	ErrBareCR           = bad("a CR is not followed by LF")
	ErrFirstLine        = bad("the first line is not that of an HTTP/1.1 message")
	ErrMethod           = bad("the method is not a token")
	ErrTarget           = bad("the request target is malformed")
	ErrConnect          = &Error{405, "the method CONNECT is not offered here"}
	ErrVersion          = &Error{505, "the HTTP version is not one of 1.0 and 1.1"}
	ErrTargetTooLong    = &Error{414, "the request target is too long"}
	ErrTooManyFields    = &Error{431, "the head has too many fields"}
	ErrHeadTooLarge     = &Error{431, "the head is too large"}
	ErrFold             = bad("a header field is folded over two lines")
	ErrFieldName        = bad("a field name is empty or not a token")
	ErrFieldSpace       = bad("there is white space before the colon of a header field")
	ErrFieldValue       = bad("a field value has a control character")
	ErrNoHost           = bad("the Host field is missing")
	ErrManyHosts        = bad("there is more than one Host field")
	ErrHost             = bad("the Host field is not a host with an optional port")
	ErrHostDisagrees    = bad("the request target and the Host field name different hosts")
	ErrLength           = bad("the Content-Length is not one decimal number")
	ErrManyLengths      = bad("there is more than one Content-Length")
	ErrLengthAndCoding  = bad("there are both Content-Length and Transfer-Encoding")
	ErrCoding           = bad("the Transfer-Encoding is not exactly chunked")
	ErrCodingIn10       = bad("Transfer-Encoding does not exist in HTTP/1.0")
	ErrConnectionTokens = bad("the Connection field has too many options")
	ErrExpect           = &Error{417, "the Expect field is not 100-continue"}
	ErrStatus           = bad("the status is not a number from 100 to 999")
	ErrReason           = bad("the reason phrase has a control character")
	ErrChunkSize        = bad("a chunk size is malformed")
	ErrChunkExtension   = bad("a chunk extension is malformed or too long")
	ErrChunkEnd         = bad("a chunk is longer than its size says")
	ErrTrailerTooLarge  = bad("the trailer section is too large")
)

// Limits bounds what Parse accepts; zero fields mean the defaults.
type Limits struct {
	Fields int // fields in one head; 0 means 200
	Target int // bytes of the request target; 0 means 16 KiB

	// AnyTarget accepts '#' and bytes from 0x80 on in the request target, for
	// a caller that escapes them.
	AnyTarget bool
}

// The defaults of Limits.
const (
	DefaultFields = 200
	DefaultTarget = 16 << 10
)

func (l Limits) withDefaults() Limits {
	if l.Fields <= 0 {
		l.Fields = DefaultFields
	}
	if l.Target <= 0 {
		l.Target = DefaultTarget
	}
	return l
}

// allowTarget reports whether each byte may be in a request target.
func (l Limits) allowTarget(target []byte) bool {
	for _, c := range target {
		if class[c]&isTarget == 0 && !(l.AnyTarget && (c == '#' || c >= 0x80)) {
			return false
		}
	}
	return true
}

// A Framing says how the end of a body is found (RFC 9112, section 6.3).
type Framing uint8

const (
	NoBody     Framing = iota // there is none
	Length                    // so many bytes
	Chunked                   // the chunked coding
	UntilClose                // all up to the end of the conn; responses only
)

// Character classes.
const (
	isToken  = 1 << iota // tchar (RFC 9110, section 5.6.2)
	isValue              // allowed in a field value
	isTarget             // allowed in a request target
	isHost               // allowed in a registered name or IPv4 address
)

var class = func() (t [256]uint8) {
	for c := range 256 {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
			t[c] = isToken | isValue | isTarget | isHost
		case c > ' ' && c < 0x7f:
			t[c] = isValue | isTarget
		case c == ' ', c == '\t', c >= 0x80:
			t[c] = isValue
		}
	}
	for _, c := range "!#$%&'*+-.^_`|~" {
		t[c] |= isToken
	}
	for _, c := range "-._" {
		t[c] |= isHost
	}
	t['#'] &^= isTarget // a fragment is never sent (RFC 9110, section 7.1)
	return t
}()

// all reports whether each byte of b is of that class.
func all(b []byte, c uint8) bool {
	for _, x := range b {
		if class[x]&c == 0 {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c | 0x20
	}
	return c
}

// EqualFold reports whether b is s but for the case of ASCII letters; s is in
// lower case.
func EqualFold(b []byte, s string) bool {
	if len(b) != len(s) {
		return false
	}
	for i := range b {
		if lower(b[i]) != s[i] {
			return false
		}
	}
	return true
}

func equalFoldBytes(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func hasPrefixFold(b []byte, s string) bool {
	return len(b) >= len(s) && EqualFold(b[:len(s)], s)
}

// trim removes spaces and tabs at both ends.
func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// NextToken splits a comma-separated list: it returns the first element
// without white space around it, and what follows the comma. The list is at its
// end when rest is nil; elements may be empty.
func NextToken(list []byte) (token, rest []byte) {
	for i, c := range list {
		if c == ',' {
			return trim(list[:i]), list[i+1:]
		}
	}
	return trim(list), nil
}

// hasToken reports whether a comma-separated list has that element, which is
// given in lower case.
func hasToken(list []byte, token string) bool {
	for list != nil {
		var t []byte
		if t, list = NextToken(list); EqualFold(t, token) {
			return true
		}
	}
	return false
}
