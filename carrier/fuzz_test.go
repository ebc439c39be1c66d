package carrier_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"adit/carrier"
)

// scriptConn answers whatever it is asked with given bytes. Where these have
// the word KEY, it puts the right Sec-WebSocket-Accept.
type scriptConn struct {
	net.Conn // nil; only the methods below are used
	answer   string
	rest     io.Reader
}

func (s *scriptConn) Write(p []byte) (int, error) {
	if s.rest == nil {
		key := carrier.AcceptFor(headerOf(string(p), "Sec-WebSocket-Key"))
		s.rest = strings.NewReader(strings.ReplaceAll(s.answer, "KEY", key))
	}
	return len(p), nil
}

func (s *scriptConn) Read(p []byte) (int, error)      { return s.rest.Read(p) }
func (s *scriptConn) Close() error                    { return nil }
func (s *scriptConn) SetReadDeadline(time.Time) error { return nil }

// FuzzAnswer dials servers that answer with any bytes. What Dial accepts must
// be a consent, and no error may have the secret.
func FuzzAnswer(f *testing.F) {
	const secret = "s3cr3t-t0ken"
	f.Add(switching + "Sec-WebSocket-Accept: KEY\r\n\r\n\x82\x02hi")
	f.Add("HTTP/1.1 401 Unauthorized\r\nAdit-Error: " + secret + "\r\nRetry-After: 5\r\n\r\nno " + secret)
	f.Add("HTTP/1.1 503 x\r\nTransfer-Encoding: chunked\r\nRetry-After: Fri, 31 Dec 1999 23:59:59 GMT\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
	f.Add("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 " + secret + "\r\n\r\n")
	f.Add(secret + "\r\n")
	f.Fuzz(func(t *testing.T, answer string) {
		d := carrier.Dialer{
			URL:    "ws://test/?t=" + secret,
			Header: http.Header{"Authorization": {"Bearer " + secret}},
			DialContext: func(context.Context, string, string) (net.Conn, error) {
				return &scriptConn{answer: answer}, nil
			},
		}
		c, err := d.Dial(t.Context())
		if err == nil {
			c.Close()
			if !strings.Contains(answer, " 101 ") && !strings.Contains(answer, " 101\r\n") && !strings.Contains(answer, " 101\n") || !strings.Contains(answer, "KEY") {
				t.Errorf("took %q for a consent", answer)
			}
			return
		}
		if strings.Contains(err.Error(), secret) {
			t.Errorf("error %q has the secret", err)
		}
		var se *carrier.StatusError
		if errors.As(err, &se) && (len(se.Body) > 1024 || se.RetryAfter < 0 || strings.ContainsAny(se.Body+se.Code, "\x00\x1b\r\n")) {
			t.Errorf("status is %+v", se)
		}
	})
}

// FuzzURL gives a password in the URL, between anything. No error may have it.
func FuzzURL(f *testing.F) {
	const secret = "hunter2hunter2"
	f.Add("ws", "user", "host/path")
	f.Add("wss", "user/name", "[::1]:443")
	f.Add("http", "", "host/?token=%zz")
	f.Add("ws", "host/#", "")
	f.Add("ws", "host:80\\", "\x7f")
	f.Add("", "[", "]:0")
	f.Fuzz(func(t *testing.T, scheme, user, rest string) {
		d := carrier.Dialer{
			URL: scheme + "://" + user + ":" + secret + "@" + rest,
			DialContext: func(context.Context, string, string) (net.Conn, error) {
				return nil, errors.New("dialled")
			},
		}
		_, err := d.Dial(t.Context())
		if err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%q: Dial = %v, want an error without the password", d.URL, err)
		}
	})
}
