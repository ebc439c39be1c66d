package http1

import "bytes"

// A Request is the head of a request. Its slices are parts of what Parse was
// given; its Fields are reused by the next Parse.
type Request struct {
	Method []byte
	Target []byte // in origin-form, or "*"
	Host   []byte // as sent; empty only in HTTP/1.0
	Minor  int    // 0 or 1, of HTTP/1.x
	Fields []Field

	Framing Framing
	Length  int64 // bytes of the body if Framing is Length, else 0

	// KeepAlive says that the visitor wants to send another request.
	KeepAlive bool

	// Upgrade is the protocol that the visitor would rather speak, as it
	// wrote it; nil if it does not ask, or asks in a way that is to be
	// ignored: in HTTP/1.0, with a body, or for h2c, with which it could
	// pass by whoever looks at requests (RFC 9113 dropped it).
	Upgrade []byte

	Expect100 bool // it waits for 100 Continue before the body
	Trailers  bool // it accepts trailers (TE: trailers)
	Accept    []byte
}

// Parse parses a head that a Scanner found, with the empty line at its end. The
// error is an *Error.
func (r *Request) Parse(head []byte, limits Limits) error {
	limits = limits.withDefaults()
	fields := r.Fields[:0]
	*r = Request{Fields: fields}

	line, rest, ok := bytes.Cut(head, crlf)
	if !ok || len(rest) < 2 || string(rest[len(rest)-2:]) != "\r\n" {
		return ErrFirstLine
	}
	target, err := r.parseLine(line, limits)
	if err != nil {
		return err
	}
	var conn connection
	r.Fields, conn, err = parseFields(fields, rest[:len(rest)-2], limits.Fields)
	if err != nil {
		return err
	}
	if err := r.interpret(conn); err != nil {
		return err
	}
	return r.parseTarget(target)
}

var crlf = []byte("\r\n")

func (r *Request) parseLine(line []byte, limits Limits) (target []byte, err error) {
	if err := requestVersion(line); err != nil {
		return nil, err
	}
	r.Minor = int(line[len(line)-1] - '0')
	i, j := bytes.IndexByte(line, ' '), bytes.LastIndexByte(line, ' ')
	if i <= 0 || !all(line[:i], isToken) {
		return nil, ErrMethod
	}
	r.Method = line[:i]
	if i == j {
		return nil, ErrTarget
	}
	target = line[i+1 : j]
	switch {
	case len(target) > limits.Target:
		return nil, ErrTargetTooLong
	case len(target) == 0 || !limits.allowTarget(target):
		return nil, ErrTarget
	case string(r.Method) == "CONNECT":
		return nil, ErrConnect
	}
	return target, nil
}

// interpret draws from the fields what decides about framing and routing.
func (r *Request) interpret(conn connection) error {
	var hosts, lengths, codings, upgrades int
	var upgrade []byte
	for i := range r.Fields {
		f := &r.Fields[i]
		switch f.Kind {
		case Host:
			hosts++
			r.Host = f.Value
		case ContentLength:
			lengths++
			n, ok := parseLength(f.Value)
			if !ok {
				return ErrLength
			}
			r.Length = n
		case TransferEncoding:
			codings++
			if !EqualFold(f.Value, "chunked") {
				return ErrCoding
			}
		case Upgrade:
			upgrades++
			upgrade = f.Value
		case Expect:
			if !EqualFold(f.Value, "100-continue") {
				return ErrExpect
			}
			r.Expect100 = r.Minor == 1
		case TE:
			r.Trailers = r.Trailers || hasToken(f.Value, "trailers")
		case Accept:
			if r.Accept == nil {
				r.Accept = f.Value
			}
		}
	}
	switch {
	case hosts > 1:
		return ErrManyHosts
	case hosts == 0 && r.Minor == 1:
		return ErrNoHost
	case lengths > 1:
		return ErrManyLengths
	case codings > 1:
		return ErrCoding
	case lengths > 0 && codings > 0:
		return ErrLengthAndCoding
	case codings > 0 && r.Minor == 0:
		return ErrCodingIn10
	case codings > 0:
		r.Framing = Chunked
	case r.Length > 0:
		r.Framing = Length
	}
	if hosts == 1 {
		if _, _, ok := SplitHost(r.Host); !ok {
			return ErrHost
		}
	}
	r.KeepAlive = !conn.close && (r.Minor == 1 || conn.keepAlive)
	if r.Minor == 1 && conn.upgrade && upgrades == 1 && len(upgrade) > 0 &&
		r.Framing == NoBody && !hasToken(upgrade, "h2c") {
		r.Upgrade = upgrade
	}
	r.Expect100 = r.Expect100 && r.Framing != NoBody
	return nil
}

// parseTarget sets Target to the origin-form of target (RFC 9112, section 3.2).
func (r *Request) parseTarget(target []byte) error {
	if target[0] == '/' {
		r.Target = target
		return checkPath(target)
	}
	if string(target) == "*" {
		if string(r.Method) != "OPTIONS" {
			return ErrTarget
		}
		r.Target = target
		return nil
	}
	start := 0
	switch {
	case hasPrefixFold(target, "http://"):
		start = len("http://")
	case hasPrefixFold(target, "https://"):
		start = len("https://")
	default:
		return ErrTarget
	}
	end := start
	for end < len(target) && target[end] != '/' && target[end] != '?' {
		end++
	}
	authority := target[start:end]
	if _, _, ok := SplitHost(authority); !ok {
		return ErrTarget
	}
	if len(r.Host) == 0 {
		r.Host = authority // HTTP/1.0
	} else if !equalFoldBytes(authority, r.Host) {
		return ErrHostDisagrees
	}
	switch {
	case end == len(target) && string(r.Method) == "OPTIONS":
		r.Target = []byte("*")
	case end == len(target):
		r.Target = []byte("/")
	case target[end] == '/':
		r.Target = target[end:]
	default: // a query without a path
		r.Target = append([]byte{'/'}, target[end:]...)
	}
	return checkPath(r.Target)
}

// checkPath refuses percent signs in the path that are not part of an escape,
// about which servers disagree.
func checkPath(target []byte) error {
	for i := 0; i < len(target) && target[i] != '?'; i++ {
		if target[i] == '%' {
			if i+2 >= len(target) || !isHex(target[i+1]) || !isHex(target[i+2]) {
				return ErrTarget
			}
			if target[i+1] == '0' && target[i+2] == '0' {
				return ErrTarget // a NUL
			}
		}
	}
	return nil
}
