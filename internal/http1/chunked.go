package http1

import "bytes"

const (
	maxExtension = 1 << 10  // bytes after a chunk size, which are dropped
	maxTrailer   = 16 << 10 // bytes of a trailer section
)

// A ChunkReader undoes the chunked coding (RFC 9112, section 7.1). Its zero
// value is at the start of a body.
type ChunkReader struct {
	state   chunkState
	size    int64 // of the chunk's data, what is left
	digits  int
	ext     int
	line    int    // length of the trailer's last line
	trailer []byte // with CRLFs and without the empty line
}

type chunkState uint8

const (
	inSize chunkState = iota
	inExtension
	afterSizeCR
	inData
	afterData   // a CR must follow
	afterDataCR // an LF must follow
	inTrailer
	afterTrailerCR
	chunksDone
)

// Reset puts c at the start of a body.
func (c *ChunkReader) Reset() { *c = ChunkReader{trailer: c.trailer[:0]} }

// Done reports whether the body is read to its end.
func (c *ChunkReader) Done() bool { return c.state == chunksDone }

// Next consumes bytes of src: up to the end of the next run of data, of the
// body, or of src. data is that run and may be empty. The error is an *Error.
func (c *ChunkReader) Next(src []byte) (data, rest []byte, err error) {
	for i := 0; i < len(src); i++ {
		b := src[i]
		switch c.state {
		case inSize:
			switch {
			case isHex(b):
				if c.digits++; c.digits > 15 {
					return nil, nil, ErrChunkSize
				}
				d := b - '0'
				if b > '9' {
					d = lower(b) - 'a' + 10
				}
				c.size = c.size<<4 | int64(d)
			case c.digits == 0:
				return nil, nil, ErrChunkSize
			case b == '\r':
				c.state = afterSizeCR
			case b == ';' || b == ' ' || b == '\t':
				c.state = inExtension
			default:
				return nil, nil, ErrChunkSize
			}
		case inExtension:
			if c.ext++; c.ext > maxExtension {
				return nil, nil, ErrChunkExtension
			}
			if b == '\r' {
				c.state = afterSizeCR
			} else if class[b]&isValue == 0 {
				return nil, nil, ErrChunkExtension
			}
		case afterSizeCR:
			switch {
			case b != '\n':
				return nil, nil, ErrBareCR
			case c.size == 0:
				c.state = inTrailer
			default:
				c.state = inData
			}
			c.digits, c.ext = 0, 0
		case inData:
			n := int(min(int64(len(src)-i), c.size))
			if c.size -= int64(n); c.size == 0 {
				c.state = afterData
			}
			return src[i : i+n], src[i+n:], nil
		case afterData:
			if b != '\r' {
				return nil, nil, ErrChunkEnd
			}
			c.state = afterDataCR
		case afterDataCR:
			if b != '\n' {
				return nil, nil, ErrChunkEnd
			}
			c.state = inSize
		case inTrailer:
			switch b {
			case '\r':
				c.state = afterTrailerCR
			case '\n':
				return nil, nil, ErrBareLF
			default:
				if len(c.trailer) >= maxTrailer {
					return nil, nil, ErrTrailerTooLarge
				}
				c.trailer = append(c.trailer, b)
				c.line++
			}
		case afterTrailerCR:
			if b != '\n' {
				return nil, nil, ErrBareCR
			}
			if c.line == 0 {
				c.state = chunksDone
				return nil, src[i+1:], nil
			}
			c.trailer = append(c.trailer, '\r', '\n')
			c.state, c.line = inTrailer, 0
		case chunksDone:
			return nil, src[i:], nil
		}
	}
	return nil, nil, nil
}

// Trailer appends the fields of the trailer section to dst, without those that
// must not be there because they decide about framing, routing, authentication
// or how the content is to be read (RFC 9110, section 6.5.1).
func (c *ChunkReader) Trailer(dst []Field) ([]Field, error) {
	if len(c.trailer) == 0 {
		return dst, nil
	}
	start := len(dst)
	dst, _, err := parseFields(dst, c.trailer, DefaultFields)
	if err != nil {
		return dst, err
	}
	kept := dst[:start]
	for _, f := range dst[start:] {
		if !f.Hop && f.Kind == Other && !forbiddenInTrailer(f.Name) {
			kept = append(kept, f)
		}
	}
	return kept, nil
}

func forbiddenInTrailer(name []byte) bool {
	if len(name) > 32 {
		return false
	}
	switch string(bytes.ToLower(name)) {
	case "age", "authorization", "cache-control", "content-encoding", "content-range", "content-type",
		"cookie", "expires", "max-forwards", "pragma", "range", "retry-after", "vary", "warning",
		"www-authenticate", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range":
		return true
	}
	return false
}

// MaxChunkHeader is the most that AppendChunkHeader appends.
const MaxChunkHeader = 16 + 2

// AppendChunkHeader appends the line before n bytes of data. After the data, a
// CRLF is to follow.
func AppendChunkHeader(dst []byte, n int) []byte {
	const hex = "0123456789abcdef"
	shift := 0
	for n>>shift > 15 {
		shift += 4
	}
	for ; shift >= 0; shift -= 4 {
		dst = append(dst, hex[n>>shift&15])
	}
	return append(dst, '\r', '\n')
}

// AppendField appends a field line.
func AppendField(dst, name, value []byte) []byte {
	dst = append(dst, name...)
	dst = append(dst, ':', ' ')
	dst = append(dst, value...)
	return append(dst, '\r', '\n')
}

// AllowedInTrailer reports whether Trailer would return a field of that name.
func AllowedInTrailer(name []byte) bool {
	return len(name) > 0 && all(name, isToken) && kindOf(name) == Other && !forbiddenInTrailer(name)
}
