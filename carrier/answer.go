package carrier

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"adit/internal/printable"
)

const (
	maxHead     = 64 << 10        // bytes of the answer that are looked at
	maxBody     = 1 << 10         // bytes of a refusal's body that are kept
	bodyTimeout = 2 * time.Second // for a refusal's body
	maxInterim  = 5               // 1xx answers before the real one
)

// A StatusError is a server's answer other than 101 Switching Protocols. What
// it holds of the server's text has nothing in it that the Dialer sent.
type StatusError struct {
	StatusCode int
	RetryAfter time.Duration // 0 if the server does not say
	Code       string        // of the header Adit-Error; empty if the answer is not from adit
	Body       string        // at most 1 KiB, without control characters
}

func (e *StatusError) Error() string {
	s := fmt.Sprintf("server answered %d", e.StatusCode)
	if text := http.StatusText(e.StatusCode); text != "" {
		s += " " + text
	}
	if e.Code != "" {
		s += " (" + e.Code + ")"
	}
	if e.Body != "" {
		s += ": " + e.Body
	}
	return s
}

// An answer is the server's to the upgrade.
type answer struct {
	conn    net.Conn
	limit   *io.LimitedReader
	r       *bufio.Reader
	resp    *http.Response
	secrets []string
}

func newAnswer(conn net.Conn, secrets []string) *answer {
	limit := &io.LimitedReader{R: conn, N: maxHead}
	return &answer{conn: conn, limit: limit, r: bufio.NewReader(limit), secrets: secrets}
}

// read reads the head.
func (a *answer) read() error {
	for range maxInterim {
		resp, err := http.ReadResponse(a.r, &http.Request{Method: http.MethodGet})
		var ne net.Error
		switch {
		case err == nil:
		case a.limit.N == 0:
			return fmt.Errorf("answer's head is over %d bytes", maxHead)
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return errors.New("server closed the conn without an answer")
		case errors.As(err, &ne):
			return fmt.Errorf("read answer: %w", err)
		default:
			return errors.New("answer is not HTTP: " + a.clean(err.Error(), 200))
		}
		if resp.StatusCode/100 != 1 || resp.StatusCode == http.StatusSwitchingProtocols {
			a.resp = resp
			return nil
		}
	}
	return fmt.Errorf("server sent %d interim answers and no final one", maxInterim)
}

// statusError reads the body of a refusal. An error on the way only makes it
// shorter.
func (a *answer) statusError() *StatusError {
	a.conn.SetReadDeadline(time.Now().Add(bodyTimeout))
	return a.statusErrorOf(io.LimitReader(a.resp.Body, maxBody))
}

// statusErrorOf is statusError with a body that has at most maxBody bytes.
func (a *answer) statusErrorOf(r io.Reader) *StatusError {
	body, _ := io.ReadAll(r)
	text := string(body)
	for _, secret := range a.secrets {
		if len(body) < maxBody {
			break
		}
		// A secret that was cut off is one still.
		for n := len(secret) - 1; n >= 4; n-- {
			text = strings.TrimSuffix(text, secret[:n])
		}
	}
	h := a.resp.Header
	return &StatusError{
		StatusCode: a.resp.StatusCode,
		RetryAfter: retryAfter(h.Get("Retry-After"), time.Now()),
		Code:       a.clean(h.Get(HeaderError), 60),
		Body:       a.clean(text, maxBody),
	}
}

// rest returns what came behind the head, in memory of its own.
func (a *answer) rest() []byte {
	p, _ := a.r.Peek(a.r.Buffered())
	return bytes.Clone(p)
}

// clean returns text from the server in a form that is fit for an error: in
// one line, printable, at most limit bytes, and without secrets.
func (a *answer) clean(s string, limit int) string {
	for _, secret := range a.secrets {
		s = strings.ReplaceAll(s, secret, "[redacted]")
	}
	return printable.Cut(printable.Line(s), limit)
}

// retryAfter reads a Retry-After header (RFC 9110, section 10.2.3); 0 if it
// has no sense.
func retryAfter(s string, now time.Time) time.Duration {
	if s == "" {
		return 0
	}
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(s); err == nil {
		return max(0, t.Sub(now))
	}
	return 0
}
