package http1

import "bytes"

// A Response is the head of a response. Its slices are parts of what Parse was
// given; its Fields are reused by the next Parse.
type Response struct {
	Minor  int // 0 or 1, of HTTP/1.x
	Status int
	Reason []byte // may be empty
	Fields []Field

	Framing Framing
	Length  int64 // bytes of the body if Framing is Length, else 0

	// KeepAlive says that another request may follow on the same conn.
	KeepAlive bool

	// Upgrade says that Connection has the option upgrade.
	Upgrade bool
}

// Parse parses a head that a Scanner found, with the empty line at its end;
// method is that of the request. The error is an *Error.
func (r *Response) Parse(head []byte, method []byte, limits Limits) error {
	limits = limits.withDefaults()
	fields := r.Fields[:0]
	*r = Response{Fields: fields}

	line, rest, ok := bytes.Cut(head, crlf)
	if !ok || len(rest) < 2 || string(rest[len(rest)-2:]) != "\r\n" {
		return ErrFirstLine
	}
	if err := r.parseLine(line); err != nil {
		return err
	}
	var conn connection
	var err error
	r.Fields, conn, err = parseFields(fields, rest[:len(rest)-2], limits.Fields)
	if err != nil {
		return err
	}
	r.KeepAlive = !conn.close && (r.Minor == 1 || conn.keepAlive)
	r.Upgrade = conn.upgrade
	return r.frame(method)
}

func (r *Response) parseLine(line []byte) error {
	const version = "HTTP/1."
	if len(line) < len(version)+1+4 || string(line[:len(version)]) != version {
		return ErrVersion
	}
	switch minor := line[len(version)]; minor {
	case '0', '1':
		r.Minor = int(minor - '0')
	default:
		return ErrVersion
	}
	line = line[len(version)+1:]
	if line[0] != ' ' || len(line) > 4 && line[4] != ' ' {
		return ErrStatus
	}
	for _, c := range line[1:4] {
		if c < '0' || c > '9' {
			return ErrStatus
		}
		r.Status = r.Status*10 + int(c-'0')
	}
	if r.Status < 100 {
		return ErrStatus
	}
	if len(line) > 5 {
		r.Reason = line[5:]
		if !all(r.Reason, isValue) {
			return ErrReason
		}
	}
	return nil
}

// frame finds how long the body is. Two equal Content-Lengths pass, as some
// upstreams send them; nothing else does that two readers could see otherwise.
func (r *Response) frame(method []byte) error {
	length, codings := int64(-1), 0
	for i := range r.Fields {
		f := &r.Fields[i]
		switch f.Kind {
		case ContentLength:
			n, ok := parseLength(f.Value)
			if !ok {
				return ErrLength
			}
			if length >= 0 && length != n {
				return ErrManyLengths
			}
			length = n
		case TransferEncoding:
			if codings++; codings > 1 || !EqualFold(f.Value, "chunked") {
				return ErrCoding
			}
		}
	}
	switch {
	case length >= 0 && codings > 0:
		return ErrLengthAndCoding
	case codings > 0 && r.Minor == 0:
		return ErrCodingIn10
	case r.Status < 200, r.Status == 204, r.Status == 304, string(method) == "HEAD":
	case codings > 0:
		r.Framing = Chunked
	case length > 0:
		r.Framing, r.Length = Length, length
	case length < 0:
		r.Framing = UntilClose
		r.KeepAlive = false
	}
	return nil
}
