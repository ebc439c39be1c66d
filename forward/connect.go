package forward

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"adit/internal/replay"
	"adit/tunnel"
)

// maxConnectHead is the longest head of a CONNECT request, in bytes.
const maxConnectHead = 16 << 10

// connect serves a connection that speaks HTTP: CONNECT, and nothing else.
func (g *greeter) connect(ctx context.Context, c net.Conn, br *bufio.Reader) {
	t, status, err := readConnect(br)
	if err != nil {
		g.log.Warn("CONNECT refused", "err", err)
		if status != 0 {
			answerConnect(c, status, err.Error())
		}
		c.Close()
		return
	}
	stream, err := g.dialAsked(ctx, c, br, t)
	if err != nil {
		c.SetDeadline(time.Now().Add(greetingTimeout))
		answerConnect(c, connectStatus(err), err.Error())
		c.Close()
		return
	}
	if _, err := c.Write([]byte("HTTP/1.1 200 Connection established\r\n\r\n")); err != nil {
		reset(stream)
		c.Close()
		return
	}
	g.relay(replay.Buffered(c, br), stream, t)
}

// readConnect reads the head of a CONNECT request (RFC 9110, section 9.3.6).
// With an error, status is what to answer; 0 is nothing.
func readConnect(br *bufio.Reader) (t tunnel.Target, status int, err error) {
	line, n, err := readLine(br, 0)
	if err != nil {
		return t, statusOf(err), err
	}
	method, rest, _ := strings.Cut(line, " ")
	target, version, ok := strings.Cut(rest, " ")
	switch {
	case !ok || !strings.HasPrefix(version, "HTTP/1."):
		return t, 400, errNeither
	case method != "CONNECT":
		return t, 405, fmt.Errorf("method %.20q: CONNECT is allowed here, and SOCKS5", method)
	}
	for more := true; more; {
		if line, n, err = readLine(br, n); err != nil {
			return t, statusOf(err), err
		}
		more = line != ""
	}
	host, port, err := net.SplitHostPort(target)
	if err != nil {
		return t, 400, fmt.Errorf("target %.80q: want host:port", target)
	}
	t = tunnel.Target{Network: tunnel.TCP, Host: host}
	if t.Port, err = parsePort(port); err == nil {
		err = t.Check()
	}
	if err != nil {
		return t, 400, err
	}
	return t, 0, nil
}

var (
	errLongHead = errors.New("the head of the request is too long")
	errNeither  = errors.New("this is neither SOCKS5 nor HTTP/1")
)

// readLine reads a line of a head of which n bytes were read, and returns it
// without its end.
func readLine(br *bufio.Reader, n int) (string, int, error) {
	line, err := br.ReadSlice('\n')
	n += len(line)
	if errors.Is(err, bufio.ErrBufferFull) || n > maxConnectHead {
		return "", n, errLongHead
	}
	if err != nil {
		return "", n, err
	}
	return strings.TrimSuffix(string(line[:len(line)-1]), "\r"), n, nil
}

func statusOf(err error) int {
	if errors.Is(err, errLongHead) {
		return 431
	}
	return 0
}

// connectStatus is what a failure of OpenFunc is to somebody who speaks HTTP.
func connectStatus(err error) int {
	re, ok := errors.AsType[*tunnel.RefusedError](err)
	if !ok {
		return 503 // the server is not reached
	}
	switch re.Code {
	case tunnel.RefuseForbidden:
		return 403
	case tunnel.RefuseUpstreamTimeout:
		return 504
	case tunnel.RefuseBusy, tunnel.RefuseDraining:
		return 503
	}
	return 502
}

var connectTexts = map[int]string{
	400: "Bad Request", 403: "Forbidden", 405: "Method Not Allowed", 431: "Request Header Fields Too Large",
	502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout",
}

func answerConnect(c net.Conn, status int, text string) {
	allow := ""
	if status == 405 {
		allow = "Allow: CONNECT\r\n"
	}
	fmt.Fprintf(c, "HTTP/1.1 %d %s\r\n%sContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s\n",
		status, connectTexts[status], allow, len(text)+1, text)
}
