// Package carrier moves a session's bytes across the network: it opens the
// conn, makes it a WebSocket (RFC 6455), and sets the socket up for traffic of
// many streams. Both sides get a *wsconn.Conn.
//
// The agent dials:
//
//	d := &carrier.Dialer{URL: "wss://tunnel.example.com/_adit", Header: h}
//	conn, err := d.Dial(ctx)
//
// The server accepts in an HTTP handler, which then returns, so that its
// goroutine and buffers are freed:
//
//	conn, err := carrier.Accept(w, r, carrier.AcceptOptions{})
//	if err != nil {
//		return // r has been answered
//	}
//	go serve(conn)
package carrier

import (
	"net/http"
	"strings"

	"adit/internal/wsframe"
)

// Header names and values of the upgrade (RFC 6455, section 4).
const (
	hdrKey      = "Sec-Websocket-Key"
	hdrAccept   = "Sec-Websocket-Accept"
	hdrVersion  = "Sec-Websocket-Version"
	hdrProtocol = "Sec-Websocket-Protocol"
	hdrExtend   = "Sec-Websocket-Extensions"

	// Between two of ours: the agent offers the masking key 0, and the server
	// agrees by saying the same.
	hdrMask  = "Adit-Mask"
	maskZero = "zero"

	version = "13"
)

// HeaderError is the header in which a server that refuses tells a stable code
// of docs/errors.md, next to the status for people.
const HeaderError = "Adit-Error"

// acceptFor returns the answer to a key (RFC 6455, section 4.2.2).
func acceptFor(key string) string { return wsframe.Accept(key) }

// hasToken reports whether a header that is a list of tokens has this one, in
// any case.
func hasToken(h http.Header, name, token string) bool {
	for _, v := range h[name] {
		for t := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}

// validToken reports whether s can be a token of RFC 9110, section 5.6.2, as a
// header's name or a subprotocol must be.
func validToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`()<>@,;:\"/[]?={}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

// validValue reports whether s can be a header's value.
func validValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
