package accesslog

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"adit/ingress"
)

// maxField is how much of one field is written, in bytes as they were sent.
const maxField = 1024

// appendJSON appends a line of JSON.
func appendJSON(b []byte, f *ingress.Finished, now time.Time) []byte {
	b = append(b, `{"time":"`...)
	b = now.Add(-f.Duration).UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
	b = append(b, `","remote":"`...)
	if f.Remote.IsValid() {
		b = f.Remote.AppendTo(b)
	}
	b = append(b, '"')
	http := isHTTP(f)
	if http {
		b = appendPair(b, "method", f.Method)
	}
	b = appendPair(b, "host", f.Host)
	if http {
		b = appendPair(b, "path", f.Path)
	}
	b = appendPair(b, "proto", f.Proto)
	if http {
		b = append(b, `,"tls":`...)
		b = strconv.AppendBool(b, f.Secure)
		b = append(b, `,"status":`...)
		b = strconv.AppendInt(b, int64(f.Status), 10)
	}
	if f.Code != "" {
		b = appendPair(b, "code", f.Code)
	}
	if f.ID != "" {
		b = appendPair(b, "tunnel", string(f.ID))
	}
	if f.Service != "" {
		b = appendPair(b, "service", f.Service)
	}
	b = append(b, `,"received":`...)
	b = strconv.AppendInt(b, f.Received, 10)
	b = append(b, `,"sent":`...)
	b = strconv.AppendInt(b, f.Sent, 10)
	b = append(b, `,"dur":`...)
	b = appendSeconds(b, f.Duration)
	if !http {
		return append(b, "}\n"...)
	}
	b = append(b, `,"waited":`...)
	b = appendSeconds(b, f.Waited)
	b = append(b, `,"tries":`...)
	b = strconv.AppendInt(b, int64(f.Tries), 10)
	b = appendPair(b, "user_agent", f.UserAgent)
	b = appendPair(b, "referer", withoutQuery(f.Referer))
	if f.Trace != "" {
		b = appendPair(b, "trace", f.Trace)
	}
	return append(b, "}\n"...)
}

// isHTTP reports whether f is a request.
func isHTTP(f *ingress.Finished) bool {
	return f.Proto != ingress.ProtoTCP && f.Proto != ingress.ProtoTLS && f.Proto != ingress.ProtoUDP
}

// appendPair appends a name and a value.
func appendPair(b []byte, name, value string) []byte {
	b = append(b, `,"`...)
	b = append(b, name...)
	b = append(b, `":"`...)
	b = appendEscaped(b, value)
	return append(b, '"')
}

// appendSeconds appends a duration in seconds, to the microsecond.
func appendSeconds(b []byte, d time.Duration) []byte {
	return strconv.AppendFloat(b, d.Seconds(), 'f', 6, 64)
}

// cut returns what is written of a field, and whether that is not all.
func cut(s string) (string, bool) {
	if len(s) <= maxField {
		return s, false
	}
	return s[:maxField], true
}

const hex = "0123456789abcdef"

// appendEscaped appends the inside of a string of JSON. What a terminal might
// take for a command is escaped too, and what is no UTF-8 becomes U+FFFD.
func appendEscaped(b []byte, s string) []byte {
	s, more := cut(s)
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r == utf8.RuneError && n == 1:
			b = append(b, `\ufffd`...)
		case isCommand(r):
			b = append(b, `\u`...)
			b = append(b, hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
		default:
			b = append(b, s[:n]...)
		}
		s = s[n:]
	}
	if more {
		b = append(b, "…"...)
	}
	return b
}

// isCommand reports whether a rune moves a cursor, ends a line, or has text
// read in another direction.
func isCommand(r rune) bool {
	return r < ' ' || r >= 0x7f && r < 0xa0 ||
		r == 0x2028 || r == 0x2029 || r >= 0x200e && r <= 0x200f || r >= 0x202a && r <= 0x202e ||
		r >= 0x2066 && r <= 0x2069 || r == 0xfeff
}

// appendCombined appends a line in the combined format.
func appendCombined(b []byte, f *ingress.Finished, now time.Time) []byte {
	if !isHTTP(f) {
		return b
	}
	if f.Remote.IsValid() {
		b = f.Remote.Addr().AppendTo(b)
	} else {
		b = append(b, '-')
	}
	b = append(b, " - - ["...)
	b = now.Add(-f.Duration).AppendFormat(b, "02/Jan/2006:15:04:05 -0700")
	b = append(b, `] "`...)
	if f.Method == "" {
		b = append(b, '-')
	} else {
		b = appendHexed(b, f.Method)
		b = append(b, ' ')
		b = appendHexed(b, f.Path)
		b = append(b, ' ')
		b = appendHexed(b, f.Proto)
	}
	b = append(b, `" `...)
	b = strconv.AppendInt(b, int64(f.Status), 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, f.Sent, 10)
	b = append(b, ` "`...)
	b = appendHexed(b, orDash(withoutQuery(f.Referer)))
	b = append(b, `" "`...)
	b = appendHexed(b, orDash(f.UserAgent))
	return append(b, "\"\n"...)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// appendHexed appends a string as Apache and nginx do: what is not printable
// ASCII, and what would end the string, is \x and two digits.
func appendHexed(b []byte, s string) []byte {
	s, more := cut(s)
	for i := range len(s) {
		c := s[i]
		if c < ' ' || c > '~' || c == '"' || c == '\\' {
			b = append(b, '\\', 'x', hex[c>>4], hex[c&15])
			continue
		}
		b = append(b, c)
	}
	if more {
		b = append(b, "..."...)
	}
	return b
}

// withoutQuery returns a URL without its query, its fragment, its user and a
// token in its path: they are secrets, or may hold some.
func withoutQuery(url string) string {
	for i := range len(url) {
		if url[i] == '?' || url[i] == '#' {
			url = url[:i]
			break
		}
	}
	// The authority is between "//" and the next '/' (RFC 3986, section 3.2).
	start := 0
	for i := 0; i+1 < len(url); i++ {
		if url[i] == '/' {
			if url[i+1] == '/' {
				start = i + 2
			}
			break
		}
	}
	end := len(url)
	for i := start; i < len(url); i++ {
		if url[i] == '/' {
			end = i
			break
		}
	}
	if start > 0 {
		for i := end - 1; i >= start; i-- {
			if url[i] == '@' {
				url = url[:start] + url[i+1:]
				break
			}
		}
	}
	return withoutToken(url)
}

// withoutToken returns a URL without the token by which callers of wstunnel name
// an agent in the path.
func withoutToken(url string) string {
	const path = "/_token/"
	before, rest, ok := strings.Cut(url, path)
	if !ok {
		return url
	}
	if _, after, more := strings.Cut(rest, "/"); more {
		return before + path + "[redacted]/" + after
	}
	return before + path + "[redacted]"
}
