package agent

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"adit/tunnel"
)

const (
	handlerHeadTimeout = 10 * time.Second
	handlerIdleTimeout = 90 * time.Second // a server of adit ends idle streams before that
	handlerMaxHead     = 64 << 10         // bytes
)

// HandlerUpstream returns an upstream inside this program: the agent serves its
// streams with h, over HTTP/1.1 or, for tunnels with HTTP2, over HTTP/2. name is
// as for NewListener.
//
// A request's RemoteAddr is the address of who connected to the server; its
// port is 0 where a stream carries the requests of several visitors. When Run
// ends, requests that are being served have a few seconds; then their contexts
// end.
func HandlerUpstream(name string, h http.Handler) *Upstream {
	return &Upstream{addr: name, handler: h}
}

// A handlerServer serves the streams of one HandlerUpstream.
type handlerServer struct {
	ln      *Listener
	handler http.Handler
	server  *http.Server
	served  chan struct{} // closed when server.Serve has returned
}

func newHandlerServer(u *Upstream, log *slog.Logger) *handlerServer {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true) // streams are a session's to encrypt
	s := &handlerServer{
		ln:      NewListener(u.addr, 0),
		handler: u.handler,
		served:  make(chan struct{}),
		server: &http.Server{
			Protocols:         protocols,
			Handler:           withVisitor(u.handler),
			ReadHeaderTimeout: handlerHeadTimeout,
			IdleTimeout:       handlerIdleTimeout,
			MaxHeaderBytes:    handlerMaxHead,
			ErrorLog:          slog.NewLogLogger(log.With("service", u.addr).Handler(), slog.LevelWarn),
			ConnContext: func(ctx context.Context, c net.Conn) context.Context {
				return context.WithValue(ctx, connKey{}, c)
			},
		},
	}
	go func() {
		defer close(s.served)
		s.server.Serve(s.ln) // until shutdown
	}()
	return s
}

// shutdown takes no more streams, and returns when those that are open have
// ended; when ctx ends it ends them.
func (s *handlerServer) shutdown(ctx context.Context) {
	if s.server.Shutdown(ctx) != nil {
		s.server.Close()
	}
	<-s.served
	if h, ok := s.handler.(interface{ CloseIdleConnections() }); ok {
		h.CloseIdleConnections()
	}
}

// handlerServers are those of one Run, each started by its first stream.
type handlerServers struct {
	log *slog.Logger

	closing  chan struct{}  // closed by shutdown
	retiring sync.WaitGroup // those of retire

	mu      sync.Mutex // guards the fields below
	servers map[*Upstream]*handlerServer
	cuts    map[*handlerServer]context.CancelFunc // end the shutdown of those that retire
	over    bool
}

func newHandlerServers(log *slog.Logger) *handlerServers {
	return &handlerServers{
		log:     log,
		closing: make(chan struct{}),
		servers: make(map[*Upstream]*handlerServer),
		cuts:    make(map[*handlerServer]context.CancelFunc),
	}
}

// deliver gives a stream to the server of u.
func (h *handlerServers) deliver(u *Upstream, in tunnel.Incoming) {
	h.mu.Lock()
	s := h.servers[u]
	if s == nil && !h.over {
		s = newHandlerServer(u, h.log)
		h.servers[u] = s
	}
	h.mu.Unlock()
	if s == nil {
		refuseClosed(in)
		return
	}
	s.ln.deliver(in)
}

// retire lets u's server take streams for a little while yet, and then ends it
// with the last of them. It does not wait.
func (h *handlerServers) retire(u *Upstream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.servers[u] == nil {
		return
	}
	h.retiring.Go(func() {
		late := time.NewTimer(linger)
		defer late.Stop()
		select {
		case <-late.C:
		case <-h.closing:
		}
		ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
		defer cancel()
		h.mu.Lock()
		s := h.servers[u]
		delete(h.servers, u)
		if s != nil {
			h.cuts[s] = cancel
		}
		h.mu.Unlock()
		if s == nil {
			return
		}
		s.shutdown(ctx)
		h.mu.Lock()
		delete(h.cuts, s)
		h.mu.Unlock()
	})
}

// shutdown is that of all servers, for good.
func (h *handlerServers) shutdown(ctx context.Context) {
	h.mu.Lock()
	servers := h.servers
	h.servers, h.over = nil, true
	h.mu.Unlock()
	close(h.closing)
	stop := context.AfterFunc(ctx, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, cut := range h.cuts {
			cut()
		}
	})
	defer stop()
	var wg sync.WaitGroup
	for _, s := range servers {
		wg.Go(func() { s.shutdown(ctx) })
	}
	wg.Wait()
	h.retiring.Wait()
}

// connKey is the context key of the *Conn that a request came on.
type connKey struct{}

// withVisitor gives requests the address of their visitor. A stream for HTTP
// requests may carry those of several; then it is the server that has written
// X-Forwarded-For, with its own observation at the end.
func withVisitor(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, _ := r.Context().Value(connKey{}).(*Conn)
		if c != nil && c.in.Info().Protocol == "http" && !c.in.Info().Visitor.IsValid() {
			list := strings.Join(r.Header.Values("X-Forwarded-For"), ",")
			last := strings.TrimSpace(list[strings.LastIndexByte(list, ',')+1:])
			if addr, err := netip.ParseAddr(last); err == nil {
				r.RemoteAddr = netip.AddrPortFrom(addr, 0).String()
			}
		}
		h.ServeHTTP(w, r)
	})
}
