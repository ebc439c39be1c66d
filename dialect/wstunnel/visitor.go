package wstunnel

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"adit/internal/relay"
	"adit/internal/replay"
	"adit/session"
)

// bodyIdle is how long a caller may take for the next part of its body.
const bodyIdle = time.Minute

// ServeHTTP serves one caller or client.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if base := s.opts.BasePath; base != "" && r.Method != http.MethodConnect {
		below := http.StripPrefix(base, http.HandlerFunc(s.serve))
		r = r.Clone(r.Context())
		if rest, ok := strings.CutPrefix(r.RequestURI, base); ok && strings.HasPrefix(rest, "/") {
			r.RequestURI = rest
			below.ServeHTTP(w, r)
			return
		}
		http.NotFound(w, r)
		return
	}
	s.serve(w, r)
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	switch path := r.URL.Path; {
	case r.Method == http.MethodConnect:
		http.Error(w, "404 page not found", http.StatusNotFound)
		return
	case path == "/_health_check":
		io.WriteString(w, "WSTUNSRV RUNNING\n")
		return
	case path == "/_stats":
		s.serveStats(w, r)
		return
	case path == "/_tunnel":
		s.serveTunnel(w, r)
		return
	case path == "/_token":
		http.Redirect(w, r, "/_token/", http.StatusMovedPermanently)
		return
	}
	token, target, err := s.locate(rawTarget(r), r.Header.Get, r.Host)
	if err != nil {
		answerError(w, err)
		return
	}
	t, ok := s.Tunnel(token)
	if !ok {
		answerError(w, errNotFound)
		return
	}
	if s.opts.Admit != nil {
		if err := s.opts.Admit(r, t.id); err != nil {
			w.Header().Set("Connection", "close") // whatever body there is
			answerError(w, err)
			return
		}
	}
	s.relay(w, r, t, target)
}

var (
	errNoToken    = &StatusError{Code: http.StatusBadRequest, Text: "Missing X-Token header"}
	errNoURIToken = &StatusError{Code: http.StatusBadRequest, Text: "Missing token in URI"}
)

// rawTarget returns the target of r in origin-form, if it has none of the
// server's own.
func rawTarget(r *http.Request) string {
	if strings.HasPrefix(r.RequestURI, "/") {
		return r.RequestURI
	}
	if strings.HasPrefix(r.URL.Path, tokenPath) {
		return tokenPath // absolute-form: the original does not look for a token there
	}
	return r.URL.RequestURI()
}

// locate returns the token that a request names and the target that the local
// server is to get. The path goes before X-Token, and that before Host. raw is
// in origin-form, as it came.
func (s *Server) locate(raw string, header func(name string) string, host string) (token, target string, err error) {
	if rest, ok := strings.CutPrefix(raw, tokenPath); ok {
		path, _, _ := strings.Cut(rest, "?")
		at := strings.IndexByte(path, '/')
		if at <= 0 {
			return "", "", errNoURIToken
		}
		return rest[:at], origin(rest[at:]), nil
	}
	if path, _, _ := strings.Cut(raw, "?"); strings.IndexByte(path, '%') >= 0 {
		if plain, err := url.PathUnescape(path); err == nil && strings.HasPrefix(plain, tokenPath) {
			return "", "", errNoURIToken
		}
	}
	if token = strings.TrimSpace(header("x-token")); token != "" {
		return token, origin(raw), nil
	}
	if label, _, ok := strings.Cut(host, "."); ok {
		if _, known := s.Tunnel(label); known {
			return label, origin(raw), nil
		}
	}
	return "", "", errNoToken
}

// asStatusError returns what the server itself has to say.
func asStatusError(err error) *StatusError {
	if se, ok := errors.AsType[*StatusError](err); ok {
		return se
	}
	return &StatusError{Code: http.StatusBadGateway, Text: "Tunnel failed"}
}

// answerError tells a caller what the server itself has to say.
func answerError(w http.ResponseWriter, err error) {
	se := asStatusError(err)
	if se.Challenge != "" {
		w.Header().Set("WWW-Authenticate", se.Challenge)
	}
	if se.Text == "" {
		w.WriteHeader(se.Code)
		return
	}
	http.Error(w, se.Text, se.Code)
}

// relay carries one caller's request.
func (s *Server) relay(w http.ResponseWriter, r *http.Request, t *Tunnel, target string) {
	rc := http.NewResponseController(w)
	c := &call{
		method: r.Method, target: target, host: r.Host, header: r.Header,
		length: r.ContentLength, trailer: r.Trailer, close: r.Close && r.ProtoAtLeast(1, 0),
	}
	body := &callerBody{rc: rc}
	if r.ContentLength != 0 {
		body = &callerBody{r: r, rc: rc, trailer: &c.trailer}
		c.body = body
		rc.EnableFullDuplex() // an answer may begin before the body's end
	}
	ex := newExchange(r.Method, r.RemoteAddr)
	ex.call = c
	err := t.enter(ex)
	line := s.requestLog(t, ex, target, r.Header.Get("X-Host"))
	line.rcv()
	var resp *http.Response
	if err == nil {
		resp, err = t.do(r.Context(), ex, body.unblock)
	}
	if err != nil {
		line.ret(statusOf(err), err)
		var be *bodyError
		if r.Context().Err() != nil || errors.As(err, &be) {
			panic(http.ErrAbortHandler) // nobody is there, or nobody who makes sense
		}
		if c.body != nil {
			w.Header().Set("Connection", "close") // the rest of the body is not worth reading
		}
		answerError(w, err)
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusSwitchingProtocols {
		line.ret(resp.StatusCode, nil)
		s.switchOver(w, resp)
		return
	}
	h := w.Header()
	copyAnswer(h, resp.Header)
	trailers := len(resp.Trailer) > 0 && hasToken(r.Header["Te"], "trailers") // others never got them
	if trailers {
		h["Trailer"] = names(resp.Trailer)
	}
	w.WriteHeader(resp.StatusCode)
	err = copyBody(w, rc, resp)
	line.ret(resp.StatusCode, err)
	if err != nil {
		panic(http.ErrAbortHandler) // so that the caller does not take it for the whole
	}
	if trailers {
		for k, v := range resp.Trailer {
			h[k] = v
		}
	}
}

func statusOf(err error) int {
	var se *StatusError
	if errors.As(err, &se) {
		return se.Code
	}
	return 0
}

// dropped are the fields of answers that end at the server, as with the original:
// others that Connection names go on.
var dropped = []string{"Connection", "Keep-Alive", "Te", "Trailers", "Trailer", "Transfer-Encoding"}

func copyAnswer(to, from http.Header) {
	for k, v := range from {
		to[k] = v
	}
	for _, k := range dropped {
		delete(to, k)
	}
}

// copyBody hands each part on as it comes.
func copyBody(w http.ResponseWriter, rc *http.ResponseController, resp *http.Response) error {
	if resp.ContentLength == 0 {
		return nil
	}
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	spooled := resp.Body.(*answerBody).got.spool != nil
	var sent int64
	for {
		n, err := resp.Body.Read(*buf)
		if n > 0 {
			if _, werr := w.Write((*buf)[:n]); werr != nil {
				return werr
			}
			sent += int64(n)
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case !spooled && sent != resp.ContentLength:
			if err := rc.Flush(); err != nil {
				return err
			}
		}
	}
}

// switchOver relays what follows a 101.
func (s *Server) switchOver(w http.ResponseWriter, resp *http.Response) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "This connection cannot be upgraded", http.StatusBadGateway)
		return
	}
	conn = replay.Bare(conn)
	defer conn.Close()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.running.Add(1)
	s.mu.Unlock()
	defer s.running.Done()
	st := resp.Body.(*switched)
	var head strings.Builder
	head.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	resp.Header.Write(&head)
	head.WriteString("\r\n")
	conn.SetDeadline(time.Now().Add(headTime))
	if _, err := io.WriteString(conn, head.String()); err != nil {
		return
	}
	conn.SetDeadline(time.Time{})
	relay.Relay(replay.Buffered(conn, rw.Reader), &streamConn{Stream: st.st.stream, r: st}, relay.Options{})
}

// A streamConn is a stream of which a reader has taken some bytes already.
type streamConn struct {
	*session.Stream
	r io.Reader
}

func (c *streamConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// ReadFrom and WriteTo hide those of the stream, which would pass the reader by.
func (c *streamConn) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{c.Stream}, r)
}

func (c *streamConn) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{c.r})
}

// A callerBody is the body of a caller's request, who may not rest for long.
type callerBody struct {
	r       *http.Request
	rc      *http.ResponseController
	trailer *http.Header
	ended   atomic.Bool
}

func (b *callerBody) Read(p []byte) (int, error) {
	b.rc.SetReadDeadline(time.Now().Add(bodyIdle))
	if b.ended.Load() {
		b.rc.SetReadDeadline(time.Unix(1, 0))
	}
	n, err := b.r.Body.Read(p)
	if errors.Is(err, io.EOF) {
		*b.trailer = b.r.Trailer
		b.rc.SetReadDeadline(time.Time{})
	}
	return n, err
}

// unblock has a Read return, and all later ones.
func (b *callerBody) unblock() {
	b.ended.Store(true)
	b.rc.SetReadDeadline(time.Unix(1, 0))
}
