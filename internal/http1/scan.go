package http1

import "bytes"

// A Scanner finds the end of a head while it arrives. Its zero value is at the
// start of a message. It refuses at once what no further byte can mend, so that
// whoever speaks another protocol is not waited for.
type Scanner struct {
	pos, line int // next byte to look at, start of the line that it is in
}

// Request returns the length of the head at the start of buf with its empty
// line, or 0 if more is needed. buf is what the call before was given, with
// more at its end.
func (s *Scanner) Request(buf []byte) (int, error) {
	if len(buf) > 0 && class[buf[0]]&isToken == 0 {
		return 0, ErrFirstLine
	}
	return s.scan(buf, requestVersion)
}

// Response is like Request, for the head of a response.
func (s *Scanner) Response(buf []byte) (int, error) {
	const start = "HTTP/"
	if n := min(len(buf), len(start)); string(buf[:n]) != start[:n] {
		return 0, ErrFirstLine
	}
	return s.scan(buf, func([]byte) error { return nil })
}

func (s *Scanner) scan(buf []byte, first func(line []byte) error) (int, error) {
	for {
		i := bytes.IndexByte(buf[s.pos:], '\n')
		if i < 0 {
			s.pos = len(buf)
			return 0, nil
		}
		i += s.pos
		if i == s.line || buf[i-1] != '\r' {
			return 0, ErrBareLF
		}
		if s.line == 0 {
			if err := first(buf[:i-1]); err != nil {
				return 0, err
			}
		}
		empty := i-1 == s.line
		s.pos, s.line = i+1, i+1
		if empty {
			return i + 1, nil
		}
	}
}

// requestVersion checks the last word of a request line alone: HTTP/0.9 has
// none, and the preface of HTTP/2 has another (RFC 9113, section 3.4).
func requestVersion(line []byte) error {
	word := line[bytes.LastIndexByte(line, ' ')+1:]
	switch {
	case string(word) == "HTTP/1.1", string(word) == "HTTP/1.0":
		return nil
	case bytes.HasPrefix(word, []byte("HTTP/")):
		return ErrVersion
	case bytes.Count(line, []byte(" ")) == 1 && bytes.HasPrefix(line, []byte("GET /")):
		return ErrVersion // HTTP/0.9
	}
	return ErrFirstLine
}
