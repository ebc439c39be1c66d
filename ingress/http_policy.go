package ingress

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/netip"
	"strings"

	"adit/internal/http1"
	"adit/policy"
)

// cookiePath is the path below which all of a tunnel is. prefix and key are those
// that it was found by.
func (h *HTTP) cookiePath(prefix, key string) string {
	if h.opts.Rules != nil && strings.HasPrefix(key, "/") && !strings.ContainsRune(key, ';') {
		prefix = key // Rules leave prefix to the upstream, as if there were none
	}
	return prefix + "/"
}

// admit asks the policy of the target that the request is about to go to. The
// answer of one target is not good for another.
func (v *visitor) admit(g *policy.Guard) error {
	ex := v.ex
	ex.passed, ex.pass = g, ex.general
	if g == nil {
		return nil
	}
	pass, err := g.Admit(v.ctx, v.policyRequest())
	if err != nil {
		return err
	}
	ex.pass = ex.general.And(pass)
	if limit := ex.pass.MaxBody; limit > 0 && ex.received > limit {
		return policy.TooLarge(limit)
	}
	return nil
}

// policyRequest returns the request as policies see it.
func (v *visitor) policyRequest() *policy.Request {
	ex := v.ex
	r := &policy.Request{
		Visitor:      v.visitorAddr(),
		Method:       string(ex.req.Method),
		Target:       string(ex.req.Target),
		Path:         v.h.cookiePath(ex.prefix, ex.key),
		Secure:       http1.EqualFold(v.scheme(), "https"),
		Length:       ex.req.Length,
		Certificates: func() []*x509.Certificate { return shownBy(v.tls) },
	}
	r.Values = func(name string) (values []string) {
		for i := range ex.req.Fields {
			if f := &ex.req.Fields[i]; len(f.Name) == len(name) && strings.EqualFold(string(f.Name), name) {
				values = append(values, string(f.Value))
			}
		}
		return values
	}
	return r
}

// admit asks the policy of the target that a request is about to go to.
func (f *fallback) admit(to *routed) error {
	to.passed, to.pass = to.Policy, to.general
	if to.Policy == nil {
		return nil
	}
	pass, err := to.Policy.Admit(to.in.Context(), f.policyRequest(to))
	if err != nil {
		return err
	}
	to.pass = to.general.And(pass)
	return nil
}

// admitAgain is admit for another try. It reports false if the target differs
// from that of the last try in what it makes of the request, which has been
// made already.
func (f *fallback) admitAgain(to *routed) (same bool, err error) {
	if to.Policy == to.passed {
		return true, nil
	}
	before := to.pass
	err = f.admit(to)
	return to.pass == before, err
}

// policyRequest returns a request as policies see it.
func (f *fallback) policyRequest(to *routed) *policy.Request {
	r := to.in
	peer, _ := netip.ParseAddrPort(r.RemoteAddr)
	addr := peer.Addr().Unmap().WithZone("")
	scheme := f.h.schemeOf(r.TLS != nil)
	if f.h.trusts(addr) {
		if proto, ok := forwardedProtoOf(r.Header); ok {
			scheme = proto
		}
		addr = f.h.forwardedAddr(addr, strings.Join(r.Header.Values("X-Forwarded-For"), ","), strings.Join(r.Header.Values("Forwarded"), ","))
	}
	return &policy.Request{
		Visitor:      addr,
		Method:       r.Method,
		Target:       targetOf(r),
		Path:         f.h.cookiePath(to.shown, to.key),
		Secure:       scheme == "https",
		Length:       r.ContentLength,
		Values:       r.Header.Values,
		Certificates: func() []*x509.Certificate { return shownBy(r.TLS) },
	}
}

// forwardedProtoOf returns X-Forwarded-Proto if there is exactly one that is
// valid.
func forwardedProtoOf(h http.Header) (proto string, ok bool) {
	p := h.Values("X-Forwarded-Proto")
	if len(p) != 1 || p[0] != "http" && p[0] != "https" {
		return "", false
	}
	return p[0], true
}

// shownBy returns the certificates that the far side of a TLS conn has shown.
func shownBy(state *tls.ConnectionState) []*x509.Certificate {
	if state == nil {
		return nil
	}
	return state.PeerCertificates
}

// scheme returns what the visitor speaks, as the upstream is told.
func (v *visitor) scheme() []byte {
	if v.trusted {
		if proto := v.ex.forwardedProto(); proto != nil {
			return proto
		}
	}
	return []byte(v.h.schemeOf(v.secure))
}

// appendStripped appends a field without what of it was for adit.
func appendStripped(out []byte, f *http1.Field, pass policy.Pass) []byte {
	switch {
	case pass.DropAuthorization && http1.EqualFold(f.Name, "authorization"):
		return out
	case pass.DropCookies && http1.EqualFold(f.Name, "cookie"):
		start := len(out)
		out = append(out, f.Name...)
		out = append(out, ": "...)
		value := len(out)
		if out = policy.StripCookies(out, f.Value); len(out) == value {
			return out[:start]
		}
		return append(out, "\r\n"...)
	}
	return http1.AppendField(out, f.Name, f.Value)
}

// strip takes out of a header what of it was for adit.
func strip(header http.Header, pass policy.Pass) {
	if pass.DropAuthorization {
		header.Del("Authorization")
	}
	if !pass.DropCookies {
		return
	}
	var kept []string
	for _, value := range header["Cookie"] {
		if v := policy.StripCookies(nil, []byte(value)); len(v) > 0 {
			kept = append(kept, string(v))
		}
	}
	if header.Del("Cookie"); len(kept) > 0 {
		header["Cookie"] = kept
	}
}

// redirectTo answers with a policy's redirect.
func (v *visitor) redirectTo(to *policy.Redirect) end {
	ex := v.ex
	v.stopWatch()
	read := ex.skipBody()
	keep := read && ex.req.KeepAlive && !v.h.draining.Load()
	ex.status = http.StatusSeeOther
	out := appendStatus(ex.out[:0], ex.req.Minor, ex.status)
	out = append(out, "See Other\r\n"...)
	out = appendDate(out)
	for _, f := range redirectFields(to) {
		out = http1.AppendField(out, []byte(f[0]), []byte(f[1]))
	}
	out = append(out, "Content-Length: 0\r\n"...)
	out = appendConnection(out, ex.req.Minor, keep)
	ex.out = append(out, "\r\n"...)
	return v.send(0, read, keep)
}

// redirectFields are the header fields of a policy's redirect.
func redirectFields(to *policy.Redirect) [][2]string {
	fields := [][2]string{
		{"Location", to.Location},
		{"Cache-Control", "no-store"},
		{"Referrer-Policy", "no-referrer"},
	}
	if to.Cookie != "" {
		fields = append(fields, [2]string{"Set-Cookie", to.Cookie})
	}
	return fields
}

// agentErrors are the codes that an agent may answer with by itself.
var agentErrors = map[string]bool{
	"signature-missing": true, "signature-invalid": true, "signature-expired": true, "signature-replayed": true,
	"body-too-large": true, "busy": true, "request-timeout": true, "agent-failed": true, "upstream-refused": true,
	"upstream-timeout": true, "upstream-closed": true, "upstream-bad-response": true,
}

// isAgentError reports whether a field is an agent's word about a request that
// it answered by itself.
func isAgentError(name, value []byte) bool {
	return http1.EqualFold(name, "adit-error") && agentErrors[string(value)]
}

// A limitedBody fails when a request's body turns out too long.
type limitedBody struct {
	io.ReadCloser
	left, limit int64
}

func (b *limitedBody) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		b.left = 0
		return 0, policy.TooLarge(b.limit)
	}
	return n, err
}
