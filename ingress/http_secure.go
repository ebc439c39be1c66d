package ingress

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"adit/internal/http1"
	"adit/policy"
)

// tlsState returns what a conn's handshake came to, and nil if the conn is not
// TLS. It is complete after the first Read.
func tlsState(c net.Conn) *tls.ConnectionState {
	if t, ok := c.(interface{ ConnectionState() tls.ConnectionState }); ok {
		state := t.ConnectionState()
		return &state
	}
	return nil
}

// isTLS reports whether a conn is TLS.
func isTLS(c net.Conn) bool {
	_, ok := c.(interface{ ConnectionState() tls.ConnectionState })
	return ok
}

// schemeOf returns what a visitor speaks.
func (h *HTTP) schemeOf(secure bool) string {
	if secure {
		return "https"
	}
	return h.opts.Scheme
}

// misdirected reports whether a request for host, as sent, came on a conn that
// is not for it (RFC 9110, section 7.4): what the visitor asked for in the
// handshake decided about the certificate, and about whether the server is to
// read what it sends at all.
func (h *HTTP) misdirected(state *tls.ConnectionState, host []byte) bool {
	if state == nil || h.opts.Covers == nil || len(host) == 0 {
		return false
	}
	name, _, ok := http1.SplitHost(host)
	if !ok {
		return false // it is refused for that
	}
	asked := serverNameOf(state)
	wanted := strings.TrimSuffix(strings.ToLower(string(name)), ".")
	if asked == "" {
		if _, err := netip.ParseAddr(strings.Trim(wanted, "[]")); err == nil {
			return false
		}
	}
	return asked != wanted && !h.opts.Covers(asked, wanted)
}

// serverNameOf returns the name that a visitor asked for in its handshake. It
// is empty for an address, which is no name there (RFC 6066, section 3).
func serverNameOf(state *tls.ConnectionState) string {
	name := strings.TrimSuffix(strings.ToLower(state.ServerName), ".")
	if _, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil {
		return ""
	}
	return name
}

// Where load balancers ask whether the server is well. They do so without TLS
// too; the answers are Own's, as for all paths of the server itself.
const (
	HealthPath = ownPath + "healthz"
	ReadyPath  = ownPath + "readyz"
)

func isHealth(target string) bool { return target == HealthPath || target == ReadyPath }

// unasked returns err, or errMisdirected if err is that the visitor has shown no
// certificate on a conn that it made for another name than host: it was not
// asked for one there, and will be on a conn of its own for host.
func unasked(err error, state *tls.ConnectionState, host string) error {
	denied, ok := errors.AsType[*policy.Denied](err)
	if !ok || denied.Code != policy.CodeCertificate || state == nil || len(state.PeerCertificates) > 0 {
		return err
	}
	name, _, ok := http1.SplitHost([]byte(host))
	if ok && serverNameOf(state) != strings.TrimSuffix(strings.ToLower(string(name)), ".") {
		return errMisdirected
	}
	return err
}

// preface is how HTTP/2 begins (RFC 9113, section 3.4), up to what is not the
// head of a request.
var preface = []byte("PRI * HTTP/2.0\r\n")

// speaksH2C reports whether the visitor speaks HTTP/2 without TLS, and may.
func (v *visitor) speaksH2C() bool {
	return v.h.opts.H2C && !v.secure && !v.spoken && bytes.HasPrefix(v.ex.in[v.ex.r:v.ex.w], preface)
}

// mustUpgrade reports whether the visitor has to come again with TLS. What a
// trusted proxy has got with TLS it need not pass on with it.
func (v *visitor) mustUpgrade() bool {
	if v.h.opts.SecurePort == 0 || v.secure || isHealth(string(v.ex.req.Target)) {
		return false
	}
	if v.trusted {
		for _, f := range v.ex.req.Fields {
			if f.Kind == http1.ForwardedProto && http1.EqualFold(f.Value, "https") {
				return false
			}
		}
	}
	return true
}

// secureURL returns where a request is to go instead, or an error if it has no
// such place.
func (h *HTTP) secureURL(host, target string) (string, error) {
	name, _, ok := http1.SplitHost([]byte(host))
	if !ok || !strings.HasPrefix(target, "/") || strings.HasPrefix(target, ownPath) {
		return "", errNoTLS
	}
	at := string(name)
	if h.opts.SecurePort != 443 {
		at += ":" + strconv.Itoa(int(h.opts.SecurePort))
	}
	return "https://" + at + target, nil
}

// toTLS answers a request that came without TLS and should not have.
func (v *visitor) toTLS() end {
	u, err := v.h.secureURL(string(v.ex.req.Host), string(v.ex.req.Target))
	if err != nil {
		return v.fail(err)
	}
	return v.redirect(u)
}

// upgrades is mustUpgrade and toTLS for requests that package net/http has
// parsed. It reports whether it has answered.
func (s *innerServer) upgrades(w http.ResponseWriter, r *http.Request) bool {
	h := s.h
	if h.opts.SecurePort == 0 || r.TLS != nil || isHealth(targetOf(r)) {
		return false
	}
	peer, _ := netip.ParseAddrPort(r.RemoteAddr)
	if h.trusts(peer.Addr().Unmap().WithZone("")) && strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https") {
		return false
	}
	u, err := h.secureURL(r.Host, targetOf(r))
	if err != nil {
		h.writeProblem(w, r, explain(err), r.Host)
		return true
	}
	w.Header().Set("Location", u)
	w.WriteHeader(http.StatusPermanentRedirect)
	return true
}
