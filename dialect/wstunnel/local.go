package wstunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// A local carries requests to local servers.
type local struct {
	opts      *ClientOptions
	base      string
	client    *http.Client
	transport *http.Transport
	direct    *direct
	plain     *plainLocal // nil if plain requests are not for errands
	slots     chan struct{}
}

func newLocal(opts *ClientOptions) *local {
	l := &local{opts: opts, base: strings.TrimSuffix(opts.Server, "/"), slots: make(chan struct{}, opts.MaxConcurrent)}
	l.transport = http.DefaultTransport.(*http.Transport).Clone()
	l.transport.MaxIdleConnsPerHost = 256
	l.transport.MaxIdleConns = 1024
	l.transport.IdleConnTimeout = 30 * time.Second
	l.transport.TLSClientConfig = &tls.Config{RootCAs: opts.RootCAs, InsecureSkipVerify: opts.Insecure}
	if opts.Insecure {
		l.transport.Proxy = nil // as the original
	}
	l.direct = newDirect(l.transport)
	l.plain = newPlainLocal(l.base, l.direct)
	l.client = &http.Client{Transport: l.direct, CheckRedirect: l.redirect}
	return l
}

func (l *local) close() {
	l.direct.close()
	l.transport.CloseIdleConnections()
}

const maxRedirects = 10 // those of the original

// redirect follows redirects as the original does, but nowhere that a caller
// could not have asked for: otherwise a local server would decide which others
// callers reach.
func (l *local) redirect(req *http.Request, via []*http.Request) error {
	if l.opts.PassRedirects {
		return http.ErrUseLastResponse
	}
	if len(via) >= maxRedirects {
		return fmt.Errorf("stopped after %d redirects", maxRedirects)
	}
	first := via[0].URL
	origin := req.URL.Scheme + "://" + req.URL.Host
	if req.URL.Scheme == first.Scheme && req.URL.Host == first.Host || l.opts.Regexp != nil && whole(l.opts, origin) {
		return nil
	}
	return http.ErrUseLastResponse
}

// whole reports whether the leftmost match of the regexp is all of s.
func whole(opts *ClientOptions, s string) bool { return s != "" && opts.Regexp.FindString(s) == s }

// ownAnswer returns an answer in the form in which the original's client makes
// those.
func ownAnswer(code int, text, proto string) *http.Response {
	major, minor, ok := http.ParseHTTPVersion(proto)
	if !ok {
		major, minor = 1, 1
	}
	return &http.Response{
		Status: fmt.Sprintf("%d Bad Gateway", code), StatusCode: code,
		Proto: proto, ProtoMajor: major, ProtoMinor: minor,
		Header: http.Header{
			"Content-Type": {"text/plain"},
			"Date":         {time.Now().UTC().Format(time.RFC1123)},
			"Server":       {"wstunnel"},
		},
		ContentLength: int64(len(text)),
		Body:          io.NopCloser(strings.NewReader(text)),
	}
}

// acquire waits for a place among the requests that are carried at a time. If
// it reports true the caller calls release.
func (l *local) acquire(ctx context.Context) bool {
	select {
	case l.slots <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (l *local) release() { <-l.slots }

// do carries req to the local server that it is for, and always returns an
// answer, whose body the caller closes. upgrade lets another protocol through.
func (l *local) do(ctx context.Context, id uint16, req *http.Request, upgrade bool) *http.Response {
	out, refused := l.request(ctx, req, upgrade)
	if refused != nil {
		return refused
	}
	logLine(l.opts.Log, "HTTP issuing request", slog.String("id", requestID(id)), slog.String("verb", out.Method))
	return l.ask(out, id, req.Proto)
}

// ask sends a request, and follows redirects.
func (l *local) ask(out *http.Request, id uint16, proto string) *http.Response {
	resp, err := l.client.Do(out)
	if err != nil {
		return l.failed(id, err, proto)
	}
	logLine(l.opts.Log, "HTTP responded", slog.String("id", requestID(id)), slog.Int("status", resp.StatusCode))
	return resp
}

// failed returns the answer to a request that has got none.
func (l *local) failed(id uint16, err error, proto string) *http.Response {
	l.opts.Log.Error("HTTP request error", "id", requestID(id), "err", causeOf(err))
	return ownAnswer(http.StatusBadGateway, err.Error(), proto)
}

// causeOf leaves out the URL, which may hold a caller's secrets.
func causeOf(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		return ue.Err
	}
	return err
}

// request returns the request for a local server, or the answer that refuses
// it.
func (l *local) request(ctx context.Context, req *http.Request, upgrade bool) (out *http.Request, refused *http.Response) {
	base := l.base
	switch host := req.Header.Get("X-Host"); {
	case host != "" && l.opts.Regexp == nil:
		return nil, ownAnswer(http.StatusForbidden, "X-Host header disallowed by wstunnel cli (no -regexp option)", req.Proto)
	case host != "" && !whole(l.opts, host):
		return nil, ownAnswer(http.StatusForbidden, "X-Host header '"+host+"' does not match regexp in wstunnel cli", req.Proto)
	case host != "":
		base = host
	case base == "":
		return nil, ownAnswer(http.StatusForbidden, "X-Host header required by wstunnel cli (no -server option)", req.Proto)
	}
	target := req.RequestURI
	if !strings.HasPrefix(target, "/") {
		// Glued to the base it could name another host.
		return nil, ownAnswer(http.StatusBadRequest, "Cannot parse request URI", req.Proto)
	}
	u, err := url.Parse(base + target)
	if err != nil {
		return nil, ownAnswer(http.StatusBadRequest, "Cannot parse request URI", req.Proto)
	}
	out = (&http.Request{
		Method: req.Method, URL: u, Host: u.Host, Header: req.Header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Body: req.Body, ContentLength: req.ContentLength, Trailer: req.Trailer, Close: req.Close,
	}).WithContext(ctx)
	if req.ContentLength == 0 {
		out.Body = http.NoBody
		io.Copy(io.Discard, req.Body)
	}
	wanted := req.Header.Get("Upgrade")
	for _, k := range hopByHop {
		delete(out.Header, k)
	}
	if upgrade {
		out.Header.Set("Connection", "Upgrade")
		out.Header.Set("Upgrade", wanted)
	}
	return out, nil
}
