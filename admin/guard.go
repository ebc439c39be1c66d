package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"adit/auth"
)

// A guard decides who may ask. It looks at the connection and the request
// itself, never at what a proxy says of either.
type guard struct {
	hosts map[string]bool
	all   [sha256.Size]byte // of the token
	read  [sha256.Size]byte // of the token for reading
	reads bool              // there is one

	mu     sync.Mutex // guards the fields below
	logged time.Time  // when an attempt was logged last
}

func (g *guard) init(opts *Options) {
	g.hosts = map[string]bool{"localhost": true}
	for _, h := range opts.Hosts {
		g.hosts[strings.ToLower(strings.TrimSuffix(h, "."))] = true
	}
	g.all = digest(opts.Token)
	if g.reads = !opts.ReadToken.IsZero(); g.reads {
		g.read = digest(opts.ReadToken)
	}
}

func digest(s auth.Secret) [sha256.Size]byte { return sha256.Sum256([]byte(s.Reveal())) }

// place refuses requests that a web page can make a browser send: for a name
// that is not ours, which DNS was made to lead here, or from a page.
func (g *guard) place(r *http.Request) error {
	if !g.knows(r.Host) && (r.Host != "" || r.ProtoAtLeast(1, 1)) {
		return &apiError{http.StatusForbidden, "host", "this address does not answer for that name: use an IP address or localhost, or add the name to those allowed"}
	}
	site := r.Header.Get("Sec-Fetch-Site")
	if r.Header.Get("Origin") != "" || site != "" && site != "none" {
		return &apiError{http.StatusForbidden, "origin", "web pages may not ask here"}
	}
	return nil
}

// knows reports whether host is one that leads here without DNS, or a name
// that the operator listed.
func (g *guard) knows(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if g.hosts[name] {
		return true
	}
	_, err := netip.ParseAddr(strings.Trim(name, "[]"))
	return err == nil
}

// enter refuses whoever does not show a token that is good enough. There is no
// other way to show it than the Authorization field: not in a cookie, which
// browsers send by themselves, and not in the URL, which is logged.
func (g *guard) enter(r *http.Request, need role) error {
	if need == anybody {
		return nil
	}
	fields := r.Header.Values("Authorization")
	if len(fields) != 1 {
		return errNoToken
	}
	scheme, token, ok := strings.Cut(fields[0], " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return errNoToken
	}
	got := sha256.Sum256([]byte(strings.TrimSpace(token)))
	is := operator
	switch {
	case subtle.ConstantTimeCompare(got[:], g.all[:]) == 1:
	case g.reads && subtle.ConstantTimeCompare(got[:], g.read[:]) == 1:
		is = reader
	default:
		return errBadToken
	}
	if is < need {
		return errReadOnly
	}
	return nil
}

var (
	errNoToken  = &apiError{http.StatusUnauthorized, "missing-credential", "the admin token is missing: send it as Authorization: Bearer"}
	errBadToken = &apiError{http.StatusUnauthorized, "invalid-credential", "this is not the admin token"}
	errReadOnly = &apiError{http.StatusForbidden, "forbidden", "this token is for reading only"}
)

// refuse answers, and logs at most one attempt in a second.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, err error) {
	e := err.(*apiError)
	if e.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	g := &h.guard
	g.mu.Lock()
	now := time.Now()
	tell := now.Sub(g.logged) >= time.Second
	if tell {
		g.logged = now
	}
	g.mu.Unlock()
	if tell {
		h.log.Warn("admin request refused", "remote", r.RemoteAddr, "method", r.Method, "code", e.code)
	}
	writeError(w, e)
}
