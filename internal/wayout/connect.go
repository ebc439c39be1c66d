package wayout

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"adit/internal/replay"
)

const (
	maxAnswer = 16 << 10 // bytes of the head of a proxy's answer
	maxPage   = 64 << 10 // bytes of the page that comes with a refusal, to be skipped
	maxLegs   = 6        // requests until a proxy has to be content
)

// An httpProxy is a connection to an HTTP proxy.
type httpProxy struct {
	net.Conn
	limit  *io.LimitedReader
	r      *bufio.Reader
	settle func() bool
	asked  int // requests
}

// dialHTTP asks an HTTP proxy for a connection to addr, and logs in if it wants
// that.
func (d *Dialer) dialHTTP(ctx context.Context, via *url.URL, addr string) (_ net.Conn, err error) {
	login := d.newLogin(via)
	var p *httpProxy
	defer func() {
		if p != nil && err != nil {
			p.settle()
			p.Close()
		}
	}()
	for range maxLegs {
		if p == nil {
			if p, err = d.openHTTP(ctx, via); err != nil {
				return nil, err
			}
		}
		resp, err := p.ask(addr, login.header)
		if err != nil && p.asked > 1 && !login.bound && ctx.Err() == nil {
			p.settle()
			p.Close()
			p = nil // it does not keep connections, and did not say so
			continue
		}
		switch {
		case err != nil:
			return nil, &Error{Kind: NoProxy, Err: err}
		case resp.StatusCode/100 == 2:
			return p.through(ctx)
		case resp.StatusCode == http.StatusUnauthorized && login.header != "": // as tinyproxy does it
			return nil, &Error{Kind: LoginRefused, StatusCode: resp.StatusCode, Offers: login.offers}
		case resp.StatusCode != http.StatusProxyAuthRequired:
			return nil, refusal(resp.StatusCode)
		}
		if err := login.next(ctx, resp.Header.Values("Proxy-Authenticate")); err != nil {
			return nil, err
		}
		if p.skip(resp) {
			continue
		}
		if login.bound {
			return nil, &Error{Kind: LoginRefused, StatusCode: resp.StatusCode, Offers: login.offers,
				Err: errors.New("it closes the connection in the middle of the login")}
		}
		p.settle()
		p.Close()
		p = nil
	}
	return nil, &Error{Kind: LoginRefused, StatusCode: http.StatusProxyAuthRequired, Offers: login.offers}
}

func (d *Dialer) openHTTP(ctx context.Context, via *url.URL) (*httpProxy, error) {
	conn, settle, err := d.open(ctx, via)
	if err != nil {
		return nil, err
	}
	limit := &io.LimitedReader{R: conn}
	return &httpProxy{Conn: conn, limit: limit, r: bufio.NewReader(limit), settle: settle}, nil
}

// ask sends one request, and returns the head of its answer.
func (p *httpProxy) ask(addr, authorization string) (*http.Response, error) {
	request := "CONNECT " + addr + " HTTP/1.1\r\nHost: " + addr + "\r\nUser-Agent: Go-http-client/1.1\r\nProxy-Connection: Keep-Alive\r\n"
	if authorization != "" {
		request += "Proxy-Authorization: " + authorization + "\r\n"
	}
	p.asked++
	if _, err := io.WriteString(p, request+"\r\n"); err != nil {
		return nil, fmt.Errorf("send the request: %w", err)
	}
	p.limit.N = maxAnswer
	for {
		resp, err := http.ReadResponse(p.r, &http.Request{Method: http.MethodConnect})
		if err != nil {
			return nil, fmt.Errorf("read the answer: %w", readable(err))
		}
		if resp.StatusCode/100 != 1 || resp.StatusCode == http.StatusSwitchingProtocols {
			return resp, nil
		}
	}
}

// readable is err without what the other end may have put into it.
func readable(err error) error {
	var ne net.Error
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the connection was closed")
	case errors.As(err, &ne):
		return err
	}
	return errors.New("it is not HTTP")
}

// skip reads the page that comes with an answer. It reports whether another
// request can follow on the connection.
func (p *httpProxy) skip(resp *http.Response) bool {
	if resp.Close || resp.ContentLength < 0 && len(resp.TransferEncoding) == 0 {
		return false
	}
	p.limit.N = maxPage
	_, err := io.Copy(io.Discard, resp.Body)
	return err == nil && p.limit.N > 0
}

// through returns the connection to the server.
func (p *httpProxy) through(ctx context.Context) (net.Conn, error) {
	early, _ := p.r.Peek(p.r.Buffered()) // the server speaks first
	if !p.settle() {
		return nil, context.Cause(ctx)
	}
	return &Conn{replay.New(p.Conn, bytes.Clone(early))}, nil
}

// refusal is the error for an answer that is not about the login.
func refusal(status int) *Error {
	e := &Error{Kind: NoProxy, StatusCode: status, Err: errors.New("it refuses CONNECT")}
	switch status {
	case http.StatusForbidden, http.StatusUnavailableForLegalReasons, http.StatusUnauthorized, http.StatusTooManyRequests:
		e.Kind, e.Err = Forbidden, nil
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusInternalServerError:
		e.Kind, e.Err = ServerUnreachable, nil
	}
	return e
}
