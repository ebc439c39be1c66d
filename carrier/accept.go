package carrier

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"adit/internal/wsconn"
)

// answerTimeout bounds writing the 101 to an agent.
const answerTimeout = 10 * time.Second

// AcceptOptions configures Accept. The zero value is ready to use.
type AcceptOptions struct {
	// CheckOrigin decides on a request that has an Origin header, which only
	// browsers send. If nil, all of those are refused: any page could open a
	// WebSocket otherwise, with the cookies of whoever looks at it.
	CheckOrigin func(r *http.Request) bool

	// Subprotocol is chosen if the agent offers it. Empty chooses none.
	Subprotocol string

	// Header is sent along with the answer.
	Header http.Header

	// ZeroMask accepts an agent's offer to mask with the key 0.
	ZeroMask bool

	// MaxFrame is as in wsconn.Options.
	MaxFrame int64
}

// IsUpgrade reports whether r asks for a WebSocket. Accept may refuse it
// nevertheless.
func IsUpgrade(r *http.Request) bool {
	return hasToken(r.Header, "Upgrade", "websocket") && hasToken(r.Header, "Connection", "upgrade")
}

// Accept makes the conn of r a WebSocket, which the caller closes. If r is not
// a valid request for one (RFC 6455, section 4.2.1), or must not have one,
// Accept answers it with 400, 403, 405 or 426 and returns an error.
//
// The conn is not bound to r's context. The handler should return, which frees
// what net/http holds for it. Conns that a net.Listener wraps should have a
// method NetConn that leads to the socket.
func Accept(w http.ResponseWriter, r *http.Request, opts AcceptOptions) (*wsconn.Conn, error) {
	if ref := check(r, opts); ref != nil {
		return nil, ref.answer(w, r)
	}
	head, err := opts.answer(r)
	if err != nil {
		http.Error(w, "misconfigured", http.StatusInternalServerError)
		return nil, err
	}
	conn, brw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "WebSocket is not possible here", http.StatusInternalServerError)
		return nil, fmt.Errorf("carrier: take over the conn: %w", err)
	}
	var buffered []byte
	if n := brw.Reader.Buffered(); n > 0 {
		p, _ := brw.Reader.Peek(n)
		buffered = bytes.Clone(p) // a part of brw's memory would keep all of it
	}
	conn.SetDeadline(time.Now().Add(answerTimeout))
	if _, err := conn.Write(head); err != nil {
		conn.Close()
		return nil, fmt.Errorf("carrier: answer the upgrade: %w", err)
	}
	conn.SetDeadline(time.Time{})
	Tune(conn)
	return wsconn.New(conn, wsconn.Server, wsconn.Options{Buffered: buffered, MaxFrame: opts.MaxFrame}), nil
}

// answer returns the 101's head.
func (o AcceptOptions) answer(r *http.Request) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
	fmt.Fprintf(&b, "Sec-WebSocket-Accept: %s\r\n", acceptFor(r.Header.Get(hdrKey)))
	if o.Subprotocol != "" {
		if !validToken(o.Subprotocol) {
			return nil, fmt.Errorf("carrier: subprotocol %q: must be a token of letters, digits, dots and dashes", o.Subprotocol)
		}
		if offers(r, o.Subprotocol) {
			fmt.Fprintf(&b, "Sec-WebSocket-Protocol: %s\r\n", o.Subprotocol)
		}
	}
	if o.ZeroMask && r.Header.Get(hdrMask) == maskZero {
		fmt.Fprintf(&b, "%s: %s\r\n", hdrMask, maskZero)
	}
	o.Header.Write(&b) // drops names that are not valid, and line ends in values
	b.WriteString("\r\n")
	return b.Bytes(), nil
}

// offers reports whether r offers a subprotocol, whose case matters.
func offers(r *http.Request, subprotocol string) bool {
	for _, v := range r.Header[hdrProtocol] {
		for p := range strings.SplitSeq(v, ",") {
			if strings.TrimSpace(p) == subprotocol {
				return true
			}
		}
	}
	return false
}

// A refusal is why Accept does not make r a WebSocket.
type refusal struct {
	status int
	reason string
	header string // name of a header that goes with the status, if any
	value  string
}

// answer sends the refusal and returns it as an error.
func (f *refusal) answer(w http.ResponseWriter, r *http.Request) error {
	if f.header != "" {
		w.Header().Set(f.header, f.value)
	}
	if f.status == http.StatusUpgradeRequired && r.ProtoMajor == 1 { // HTTP/2 has no such headers
		w.Header().Set("Connection", "Upgrade") // RFC 9110, section 15.5.22
		w.Header().Set("Upgrade", "websocket")
	}
	http.Error(w, f.reason, f.status)
	return errors.New("carrier: upgrade refused: " + f.reason)
}

// check judges r by RFC 6455, section 4.2.1, and by its origin.
func check(r *http.Request, opts AcceptOptions) *refusal {
	keys := r.Header[hdrKey]
	switch {
	case r.Method != http.MethodGet:
		return &refusal{http.StatusMethodNotAllowed, "method must be GET for a WebSocket", "Allow", http.MethodGet}
	case !r.ProtoAtLeast(1, 1) || r.ProtoMajor > 1:
		return &refusal{status: http.StatusUpgradeRequired, reason: "a WebSocket needs HTTP/1.1"}
	case !hasToken(r.Header, "Upgrade", "websocket"):
		return &refusal{status: http.StatusUpgradeRequired, reason: `header "Upgrade: websocket" is missing; this address takes only WebSockets, or something on the way removed it`}
	case !hasToken(r.Header, "Connection", "upgrade"):
		return &refusal{status: http.StatusUpgradeRequired, reason: `header "Connection: Upgrade" is missing; something on the way may have removed it`}
	case len(r.Header[hdrVersion]) != 1 || r.Header[hdrVersion][0] != version:
		return &refusal{http.StatusUpgradeRequired, "header Sec-WebSocket-Version must be " + version, "Sec-WebSocket-Version", version}
	case len(keys) != 1 || !validKey(keys[0]):
		return &refusal{status: http.StatusBadRequest, reason: "header Sec-WebSocket-Key must be there once, 16 bytes in base64"}
	case r.ContentLength != 0 || len(r.TransferEncoding) > 0:
		return &refusal{status: http.StatusBadRequest, reason: "a request for a WebSocket must not have a body"}
	case len(r.Header["Origin"]) > 0 && (opts.CheckOrigin == nil || !opts.CheckOrigin(r)):
		return &refusal{status: http.StatusForbidden, reason: "pages of this origin may not open a WebSocket here"}
	}
	return nil
}

func validKey(s string) bool {
	b, err := base64.StdEncoding.DecodeString(s)
	return err == nil && len(b) == 16
}
