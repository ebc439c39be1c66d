package wstunnel

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

const (
	// idSize is the length of the id in front of each message, in bytes.
	idSize = 4

	// ids is how many there are: the original counts modulo this.
	ids = 32000

	// maxID is the highest that originals take.
	maxID = 0x7fff
)

var errID = errors.New("message without an id from 0000 to 7fff")

// parseID reads four hexadecimal digits.
func parseID(b []byte) (uint16, error) {
	var n uint16
	if len(b) != idSize {
		return 0, errID
	}
	for _, c := range b {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, errID
		}
		n = n<<4 | uint16(c)
	}
	if n > maxID {
		return 0, errID
	}
	return n, nil
}

// putID appends an id.
func putID(b []byte, id uint16) []byte {
	const digits = "0123456789abcdef"
	return append(b, digits[id>>12&15], digits[id>>8&15], digits[id>>4&15], digits[id&15])
}

func idReader(id uint16) io.Reader  { return bytes.NewReader(putID(nil, id)) }
func byteReader(b []byte) io.Reader { return bytes.NewReader(b) }

// A call is a caller's request as it goes into the tunnel.
type call struct {
	method, target, host string
	header               http.Header
	length               int64 // of the body; -1 if it comes in chunks
	trailer              http.Header
	close                bool // the caller wants its connection closed
	body                 io.Reader
}

// defaultAgent is what an original puts in for callers who name none.
const defaultAgent = "Go-http-client/1.1"

// appendHead appends c's request line and header as the original's server
// writes them.
func (c *call) appendHead(b []byte) []byte {
	b = append(b, c.method...)
	b = append(b, ' ')
	b = append(b, c.target...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, c.host...)
	b = append(b, "\r\nUser-Agent: "...)
	if v := c.header["User-Agent"]; len(v) > 0 {
		b = appendValue(b, v[0])
	} else {
		b = append(b, defaultAgent...)
	}
	b = append(b, "\r\n"...)
	switch {
	case c.length < 0:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		if len(c.trailer) > 0 {
			b = append(b, "Trailer: "+strings.Join(names(c.trailer), ",")+"\r\n"...)
		}
	case c.length > 0 || c.header["Content-Length"] != nil:
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, c.length, 10)
		b = append(b, "\r\n"...)
	}
	if _, has := c.header["Connection"]; c.close && !has {
		b = append(b, "Connection: close\r\n"...)
	}
	var few [32]string
	keys := few[:0]
	for k := range c.header {
		switch k {
		case "User-Agent", "Content-Length", "Transfer-Encoding", "Trailer", "Host":
		default:
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		for _, v := range c.header[k] {
			b = append(b, k...)
			b = append(b, ": "...)
			b = appendValue(b, v)
			b = append(b, "\r\n"...)
		}
	}
	return append(b, "\r\n"...)
}

// appendValue appends a field's value, without what could end its line.
func appendValue(b []byte, v string) []byte {
	if strings.ContainsAny(v, "\r\n") {
		v = strings.NewReplacer("\r", " ", "\n", " ").Replace(v)
	}
	return append(b, v...)
}

func names(h http.Header) []string {
	var all []string
	for k := range h {
		all = append(all, k)
	}
	slices.Sort(all)
	return all
}

// origin returns the origin-form of a raw target, in which bytes that may not
// stand in a path are encoded. The query stays as it is.
func origin(path string) string {
	raw, query, has := strings.Cut(path, "?")
	clean := true
	for i := range len(raw) {
		clean = clean && pathByte(raw[i])
	}
	if clean {
		return path
	}
	const digits = "0123456789ABCDEF"
	b := make([]byte, 0, len(path)+16)
	for i := range len(raw) {
		if c := raw[i]; pathByte(c) {
			b = append(b, c)
		} else {
			b = append(b, '%', digits[c>>4], digits[c&15])
		}
	}
	if has {
		b = append(append(b, '?'), query...)
	}
	return string(b)
}

// pathByte reports whether c may stand in a path (RFC 3986, section 3.3).
func pathByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		strings.IndexByte("-._~!$&'()*+,;=:@/%[]", c) >= 0
}

// hopByHop are the fields that an original's client takes out of a request.
var hopByHop = []string{
	"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailers",
	"Transfer-Encoding", "Upgrade", "Host", "X-Host",
	"X-Token", // the tunnel's secret is no business of the local server
}

// hasToken reports whether one of a field's values has a word, in any case.
func hasToken(values []string, token string) bool {
	for _, v := range values {
		for word := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(word), token) {
				return true
			}
		}
	}
	return false
}

// idempotent reports whether a request can be sent a second time (RFC 9110,
// section 9.2.2).
func idempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}
