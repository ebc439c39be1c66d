package doctor

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"adit/carrier/requests"
)

// What a server does for whoever asks, who need not be anybody it knows.
const (
	maxProbes  = 128              // that are being answered at a time
	maxOfOne   = 32               // of these, of one address
	maxBody    = 4 << 20          // bytes of a request's body
	bodyTime   = 20 * time.Second // for it to come in
	dripChunks = 4
	dripPause  = 400 * time.Millisecond
	maxTokens  = 1024            // of calls of oncePath that are remembered
	tokenTime  = 2 * time.Minute // and how long
	maxToken   = 64              // bytes
)

// HandlerOptions configures a Handler. Admit is required.
type HandlerOptions struct {
	// Version is that of the server.
	Version string

	// Admit decides on whoever begins to ask something, by address. An error is
	// answered with 429.
	Admit func(netip.Addr) error

	// QUIC is the UDP port at which the server takes QUIC; 0 if it does not.
	QUIC int
}

// A Handler is the server's side. It answers with about as many bytes as it was
// sent and not more, for a bounded time, a bounded number of requests at once. Its methods
// are safe for concurrent use.
type Handler struct {
	opts     HandlerOptions
	requests *requests.Server

	mu     sync.Mutex // guards the fields below
	closed bool
	probes int
	of     map[netip.Addr]int
	conns  map[net.Conn]struct{}
	calls  map[string]*calls
	wg     sync.WaitGroup // of echoes
}

// calls are those with one token.
type calls struct {
	n     int
	until time.Time
}

// NewHandler returns a handler. The caller closes it.
func NewHandler(opts HandlerOptions) *Handler {
	return &Handler{
		opts:     opts,
		requests: requests.NewServer(requests.Options{}),
		of:       make(map[netip.Addr]int),
		conns:    make(map[net.Conn]struct{}),
		calls:    make(map[string]*calls),
	}
}

// Close ends all carriers, and waits for them.
func (h *Handler) Close() error {
	h.mu.Lock()
	h.closed = true
	for c := range h.conns {
		c.Close()
	}
	h.mu.Unlock()
	h.wg.Wait()
	return nil
}

var errTooMany = errors.New("too many examinations at once: try again later")

// enter begins a probe, which leave ends.
func (h *Handler) enter(from netip.Addr) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.probes >= maxProbes || h.of[from] >= maxOfOne {
		return errTooMany
	}
	h.probes++
	h.of[from]++
	return nil
}

func (h *Handler) leave(from netip.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.probes--
	if h.of[from]--; h.of[from] == 0 {
		delete(h.of, from)
	}
}

// ServeHTTP answers what is at Path and below.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	remote, _ := netip.ParseAddrPort(r.RemoteAddr)
	from := remote.Addr().Unmap().WithZone("")
	if r.URL.Path == carrierPath { // of a carrier that was admitted
		h.requests.ServeHTTP(w, r)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	if err := h.opts.Admit(from); err != nil {
		refuse(w, "too many examinations from this address: try again in a minute")
		return
	}
	if err := h.enter(from); err != nil {
		refuse(w, err.Error())
		return
	}
	if r.URL.Path == connectPath {
		h.connect(w, r, from)
		return
	}
	defer h.leave(from)
	rc := http.NewResponseController(w)
	if err := errors.Join(rc.SetReadDeadline(time.Now().Add(bodyTime)), rc.SetWriteDeadline(time.Now().Add(bodyTime))); err != nil {
		http.Error(w, "no deadlines here", http.StatusInternalServerError)
		return
	}
	switch {
	case r.Method == http.MethodGet && r.URL.Path == Path:
		h.tell(w, r)
	case r.Method == http.MethodGet && r.URL.Path == dripPath:
		drip(w, r)
	case r.Method == http.MethodPost && r.URL.Path == bodyPath:
		takeBody(w, r)
	case r.Method == http.MethodPost && r.URL.Path == oncePath:
		h.count(w, r)
	default:
		w.Header().Set("Adit-Error", "not-found")
		http.Error(w, "nothing is here", http.StatusNotFound)
	}
	// What comes next on this conn is another request, with its own time.
	rc.SetReadDeadline(time.Time{})
	rc.SetWriteDeadline(time.Time{})
}

func refuse(w http.ResponseWriter, why string) {
	w.Header().Set("Retry-After", "60")
	w.Header().Set("Adit-Error", "rate-limited")
	http.Error(w, why, http.StatusTooManyRequests)
}

// tell says what the server is, and how it sees the request.
func (h *Handler) tell(w http.ResponseWriter, r *http.Request) {
	say(w, info{
		Adit:     h.opts.Version,
		You:      r.RemoteAddr,
		Host:     r.Host[:min(len(r.Host), 255)],
		Secure:   r.TLS != nil,
		Binding:  bindingOf(r.TLS),
		Carriers: []string{"websocket", string(requests.Stream), string(requests.Poll)},
		QUIC:     h.opts.QUIC,
	})
}

func say(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

// drip answers slowly, so that whoever collects a response before passing it on
// shows.
func drip(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("X-Accel-Buffering", "no") // as the carrier that needs it says to nginx
	rc := http.NewResponseController(w)
	pause := time.NewTimer(0)
	defer pause.Stop()
	for range dripChunks {
		select {
		case <-pause.C:
		case <-r.Context().Done():
			return
		}
		if _, err := io.WriteString(w, "."); err != nil || rc.Flush() != nil {
			return
		}
		pause.Reset(dripPause)
	}
}

// takeBody reads a body and says how long it was.
func takeBody(w http.ResponseWriter, r *http.Request) {
	n, err := io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, "the body did not come in, or has more than 4 MiB", http.StatusRequestEntityTooLarge)
		return
	}
	say(w, taken{n})
}

type taken struct {
	Received int64 `json:"received"`
}

// count says how often it was called with this token.
func (h *Handler) count(w http.ResponseWriter, r *http.Request) {
	token := r.URL.Query().Get("token")
	if token == "" || len(token) > maxToken {
		http.Error(w, "token: 1 to 64 bytes are allowed", http.StatusBadRequest)
		return
	}
	say(w, counted{h.countToken(token, time.Now())})
}

type counted struct {
	Calls int `json:"calls"`
}

// countToken counts a call with a token, and returns how often there was one.
func (h *Handler) countToken(token string, now time.Time) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.calls[token]
	if c == nil {
		if len(h.calls) >= maxTokens {
			for t, c := range h.calls {
				if now.After(c.until) {
					delete(h.calls, t)
				}
			}
		}
		if len(h.calls) >= maxTokens {
			return 1 // nothing will be found out about it
		}
		c = &calls{until: now.Add(tokenTime)}
		h.calls[token] = c
	}
	c.n++
	return c.n
}
