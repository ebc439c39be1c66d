package http1

import (
	"bufio"
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// parseRequest finds and parses the head at the start of raw.
func parseRequest(raw []byte, r *Request, limits Limits) (n int, err error) {
	var s Scanner
	if n, err = s.Request(raw); err != nil || n == 0 {
		return n, err
	}
	return n, r.Parse(raw[:n], limits)
}

func TestRequestRefused(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", DefaultTarget)
	for _, tt := range []struct {
		name, raw string
		want      error
	}{
		{"bare LF after request line", "GET / HTTP/1.1\nHost: a\r\n\r\n", ErrBareLF},
		{"bare LF after field", "GET / HTTP/1.1\r\nHost: a\n\r\n", ErrBareLF},
		{"bare LF as empty line", "GET / HTTP/1.1\r\nHost: a\r\n\n", ErrBareLF},
		{"LF first", "\nGET / HTTP/1.1\r\n\r\n", ErrFirstLine},
		{"bare CR in value", "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", ErrBareCR},
		{"bare CR in name", "GET / HTTP/1.1\r\nHost: a\r\nX\rY: b\r\n\r\n", ErrBareCR},
		{"bare CR in request line", "GET /\r HTTP/1.1\r\nHost: a\r\n\r\n", ErrTarget},
		{"CR CR LF", "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", ErrBareCR},
		{"obs-fold", "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", ErrFold},
		{"obs-fold with tab", "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n\tb\r\n\r\n", ErrFold},
		{"fold before first field", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", ErrFold},
		{"space before colon", "GET / HTTP/1.1\r\nHost : a\r\n\r\n", ErrFieldSpace},
		{"tab before colon", "GET / HTTP/1.1\r\nHost\t: a\r\n\r\n", ErrFieldSpace},
		{"empty name", "GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", ErrFieldName},
		{"no colon", "GET / HTTP/1.1\r\nHost: a\r\nabc\r\n\r\n", ErrFieldName},
		{"name not a token", "GET / HTTP/1.1\r\nHost: a\r\nX(Y): b\r\n\r\n", ErrFieldName},
		{"name not ASCII", "GET / HTTP/1.1\r\nHost: a\r\nX\xc3: b\r\n\r\n", ErrFieldName},
		{"NUL in value", "GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", ErrFieldValue},
		{"DEL in value", "GET / HTTP/1.1\r\nHost: a\r\nX: a\x7fb\r\n\r\n", ErrFieldValue},
		{"vertical tab in value", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: \v1\r\n\r\n", ErrFieldValue},

		{"length and coding", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", ErrLengthAndCoding},
		{"coding and zero length", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n", ErrLengthAndCoding},
		{"two lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", ErrManyLengths},
		{"two equal lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", ErrManyLengths},
		{"list of lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 4\r\n\r\n", ErrLength},
		{"length with sign", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\n", ErrLength},
		{"negative length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", ErrLength},
		{"empty length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", ErrLength},
		{"length overflow", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551617\r\n\r\n", ErrLength},
		{"length in hex", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\n", ErrLength},
		{"coding gzip, chunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", ErrCoding},
		{"coding chunked twice", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", ErrCoding},
		{"coding identity", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", ErrCoding},
		{"coding xchunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", ErrCoding},
		{"coding quoted", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n", ErrCoding},
		{"coding empty", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n", ErrCoding},
		{"coding in 1.0", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", ErrCodingIn10},

		{"no host", "GET / HTTP/1.1\r\n\r\n", ErrNoHost},
		{"two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", ErrManyHosts},
		{"empty host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", ErrHost},
		{"host with path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", ErrHost},
		{"host with space", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", ErrHost},
		{"host with at", "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", ErrHost},
		{"host with markup", "GET / HTTP/1.1\r\nHost: <script>\r\n\r\n", ErrHost},
		{"host list", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", ErrHost},
		{"letters as port", "GET / HTTP/1.1\r\nHost: a:http\r\n\r\n", ErrHost},
		{"port too large", "GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", ErrHost},
		{"empty port", "GET / HTTP/1.1\r\nHost: a:\r\n\r\n", ErrHost},
		{"open bracket", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", ErrHost},
		{"after bracket", "GET / HTTP/1.1\r\nHost: [::1]x\r\n\r\n", ErrHost},
		{"absolute form disagrees", "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", ErrHostDisagrees},
		{"absolute form, other port", "GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n", ErrHostDisagrees},
		{"absolute form with user", "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", ErrTarget},
		{"absolute form, other scheme", "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", ErrTarget},
		{"connect", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", ErrConnect},
		{"asterisk with GET", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", ErrTarget},
		{"relative target", "GET a HTTP/1.1\r\nHost: a\r\n\r\n", ErrTarget},
		{"fragment", "GET /#a HTTP/1.1\r\nHost: a\r\n\r\n", ErrTarget},
		{"space in target", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", ErrTarget},
		{"two spaces", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", ErrTarget},
		{"tab in target", "GET /\t HTTP/1.1\r\nHost: a\r\n\r\n", ErrTarget},
		{"not ASCII in target", "GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", ErrTarget},
		{"NUL in target", "GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", ErrTarget},
		{"escaped NUL", "GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n", ErrTarget},
		{"bad escape", "GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", ErrTarget},
		{"target too long", "GET /" + long + " HTTP/1.1\r\nHost: a\r\n\r\n", ErrTargetTooLong},
		{"method not a token", "GE(T / HTTP/1.1\r\nHost: a\r\n\r\n", ErrMethod},
		{"leading space", " GET / HTTP/1.1\r\nHost: a\r\n\r\n", ErrFirstLine},
		{"HTTP/0.9", "GET /\r\n", ErrVersion},
		{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ErrVersion},
		{"HTTP/1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", ErrVersion},
		{"lower case version", "GET / http/1.1\r\nHost: a\r\n\r\n", ErrFirstLine},
		{"TLS hello", "\x16\x03\x01\x02\x00", ErrFirstLine},
		{"too many fields", "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("A: b\r\n", DefaultFields) + "\r\n", ErrTooManyFields},
		{"too many options", "GET / HTTP/1.1\r\nHost: a\r\nConnection: " + strings.Repeat("a,", 40) + "a\r\n\r\n", ErrConnectionTokens},
		{"other expectation", "POST / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\nContent-Length: 1\r\n\r\n", ErrExpect},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var r Request
			n, err := parseRequest([]byte(tt.raw), &r, Limits{})
			if err != tt.want {
				t.Errorf("got %d, %v; want %v", n, err, tt.want)
			}
		})
	}
}

func TestRequestAccepted(t *testing.T) {
	t.Parallel()
	const get = "GET / HTTP/1.1\r\nHost: a\r\n"
	for _, tt := range []struct {
		name, raw string
		check     func(r *Request) bool
	}{
		{"plain", get + "\r\n", func(r *Request) bool {
			return string(r.Method) == "GET" && string(r.Target) == "/" && string(r.Host) == "a" && r.KeepAlive && r.Framing == NoBody
		}},
		{"no space after colon", "GET / HTTP/1.1\r\nHost:a\r\n\r\n", func(r *Request) bool { return string(r.Host) == "a" }},
		{"space after value", "GET / HTTP/1.1\r\nHost: a \t \r\n\r\n", func(r *Request) bool { return string(r.Host) == "a" }},
		{"empty value", get + "X:\r\n\r\n", func(r *Request) bool { return len(r.Fields[1].Value) == 0 }},
		{"zero length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", func(r *Request) bool { return r.Framing == NoBody }},
		{"length", "POST / HTTP/1.1\r\nHost: a\r\ncontent-LENGTH: 012\r\n\r\n", func(r *Request) bool { return r.Framing == Length && r.Length == 12 }},
		{"chunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n", func(r *Request) bool { return r.Framing == Chunked }},
		{"absolute form", "GET http://A:80/x?y HTTP/1.1\r\nHost: a:80\r\n\r\n", func(r *Request) bool { return string(r.Target) == "/x?y" && string(r.Host) == "a:80" }},
		{"absolute form without path", "GET http://a HTTP/1.1\r\nHost: a\r\n\r\n", func(r *Request) bool { return string(r.Target) == "/" }},
		{"absolute form with query alone", "GET http://a?q HTTP/1.0\r\n\r\n", func(r *Request) bool { return string(r.Target) == "/?q" && string(r.Host) == "a" }},
		{"absolute form of asterisk", "OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n", func(r *Request) bool { return string(r.Target) == "*" }},
		{"asterisk", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", func(r *Request) bool { return string(r.Target) == "*" }},
		{"1.0 without host", "GET / HTTP/1.0\r\n\r\n", func(r *Request) bool { return len(r.Host) == 0 && !r.KeepAlive }},
		{"1.0 keep-alive", "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", func(r *Request) bool { return r.KeepAlive }},
		{"close among options", get + "Connection: x, CLOSE\r\n\r\n", func(r *Request) bool { return !r.KeepAlive }},
		{"IPv6 host", "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", func(r *Request) bool { return string(r.Host) == "[::1]:80" }},
		{"upgrade", get + "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n", func(r *Request) bool { return string(r.Upgrade) == "websocket" }},
		{"upgrade without option", get + "Upgrade: websocket\r\n\r\n", func(r *Request) bool { return r.Upgrade == nil }},
		{"upgrade to h2c", get + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: foo, h2c\r\n\r\n", func(r *Request) bool { return r.Upgrade == nil }},
		{"upgrade with body", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", func(r *Request) bool { return r.Upgrade == nil }},
		{"expect", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-Continue\r\n\r\n", func(r *Request) bool { return r.Expect100 }},
		{"expect without body", get + "Expect: 100-continue\r\n\r\n", func(r *Request) bool { return !r.Expect100 }},
		{"named by Connection", get + "Connection: x-a\r\nX-A: 1\r\n\r\n", func(r *Request) bool { return r.Fields[2].Hop }},
		{"Connection names Host", get + "Connection: host, x-forwarded-for\r\nX-Forwarded-For: 1\r\n\r\n", func(r *Request) bool { return !r.Fields[0].Hop && !r.Fields[2].Hop }},
		{"lookalike", get + "X_Forwarded-For: 1\r\n\r\n", func(r *Request) bool { return r.Fields[1].Kind == Lookalike }},
		{"percent in query", "GET /?%zz HTTP/1.1\r\nHost: a\r\n\r\n", func(r *Request) bool { return string(r.Target) == "/?%zz" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var r Request
			n, err := parseRequest([]byte(tt.raw), &r, Limits{})
			if err != nil || n != len(tt.raw) {
				t.Fatalf("got %d, %v; want %d", n, err, len(tt.raw))
			}
			if !tt.check(&r) {
				t.Errorf("parsed to %+v", r)
			}
		})
	}
}

// TestScannerSlow feeds byte by byte: the answer must not depend on how a head
// is cut.
func TestScannerSlow(t *testing.T) {
	t.Parallel()
	const raw = "GET / HTTP/1.1\r\nHost: a\r\n\r\nrest"
	var s Scanner
	for i := 1; i <= len(raw); i++ {
		n, err := s.Request([]byte(raw[:i]))
		if err != nil {
			t.Fatalf("after %d bytes: %v", i, err)
		}
		if n > 0 {
			if want := len(raw) - len("rest"); n != want || i != want {
				t.Errorf("head of %d bytes after %d, want %d", n, i, want)
			}
			return
		}
	}
	t.Error("no end found")
}

func TestParseAllocatesNothing(t *testing.T) {
	raw := []byte("GET /index.html?x=1 HTTP/1.1\r\nHost: web.example.com\r\nUser-Agent: curl/8\r\nAccept: */*\r\nConnection: keep-alive, x-a\r\nX-A: b\r\n\r\n")
	var r Request
	r.Fields = make([]Field, 0, 16)
	if n := testing.AllocsPerRun(100, func() { parseRequest(raw, &r, Limits{}) }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

// serialise writes r as a relay would: framing and routing from what was
// parsed, and all other fields as they are.
func serialise(r *Request) []byte {
	b := append([]byte(nil), r.Method...)
	b = append(append(append(b, ' '), r.Target...), " HTTP/1.1\r\n"...)
	b = AppendField(b, []byte("Host"), r.Host)
	for _, f := range r.Fields {
		if f.Kind == Other && !f.Hop {
			b = AppendField(b, f.Name, f.Value)
		}
	}
	switch r.Framing {
	case Length:
		b = append(b, "Content-Length: "...)
		for _, f := range r.Fields {
			if f.Kind == ContentLength {
				b = append(b, f.Value...)
			}
		}
		b = append(b, "\r\n"...)
	case Chunked:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	return append(b, "\r\n"...)
}

func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET http://a?q HTTP/1.0\r\n\r\n",
		"POST /a%20b HTTP/1.1\r\nHost: a:80\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
		"POST / HTTP/1.1\r\nHost: [::1]\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade, x\r\nUpgrade: websocket\r\nX: 1\r\nX_Forwarded_For: 2\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		original := bytes.Clone(raw)
		var r Request
		n, err := parseRequest(raw, &r, Limits{})
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Status < 400 || e.Status > 599 {
				t.Fatalf("refused with %v, want an *Error with a status", err)
			}
			return
		}
		if n == 0 {
			return
		}
		var again Scanner
		cut := n / 2
		if m, err := again.Request(original[:cut]); m != 0 || err != nil {
			t.Fatalf("half a head: %d, %v; want it to be incomplete", m, err)
		}
		if m, err := again.Request(original); m != n || err != nil {
			t.Fatalf("scanned in two parts: %d, %v; want %d", m, err, n)
		}
		for name, raw := range map[string][]byte{"as sent": original, "as relayed": serialise(&r)} {
			q, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
			if err != nil {
				if strings.Contains(err.Error(), "trailer") {
					continue // net/http looks into Trailer, which is not relayed then
				}
				t.Fatalf("%s: net/http refuses %q: %v", name, raw, err)
			}
			q.Body = nil
			if q.Method != string(r.Method) {
				t.Errorf("%s: method %q, net/http sees %q", name, r.Method, q.Method)
			}
			if name == "as relayed" && q.RequestURI != string(r.Target) {
				t.Errorf("target %q, net/http sees %q", r.Target, q.RequestURI)
			}
			if !strings.EqualFold(q.Host, string(r.Host)) {
				t.Errorf("%s: host %q, net/http sees %q", name, r.Host, q.Host)
			}
			chunked := len(q.TransferEncoding) == 1 && q.TransferEncoding[0] == "chunked"
			if chunked != (r.Framing == Chunked) {
				t.Errorf("%s: framing %d, net/http sees chunked=%v", name, r.Framing, chunked)
			}
			if !chunked && q.ContentLength != r.Length {
				t.Errorf("%s: length %d, net/http sees %d", name, r.Length, q.ContentLength)
			}
		}
	})
}
