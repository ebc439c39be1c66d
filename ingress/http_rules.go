package ingress

import (
	"bytes"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"adit/internal/http1"
	"adit/tunnel"
)

// Rules let an HTTP ingress treat visitors as another program does, which they
// or their upstreams know. They replace PathMode and adit's own paths. A request
// goes to its upstream as it came: nothing is added about forwarding or taken
// out, and what the upstream sends is not adapted to a path. A request is sent a
// second time only if the first was lost with a stream that had carried others,
// or with a tunnel.
type Rules struct {
	// Hosts finds an ID in the hostname: the label before HTTPOptions.Domain.
	// The path goes on as it is.
	Hosts bool

	// Paths finds an ID in the path, whatever the host is, unless Hosts finds
	// one there: the first segment as it is written. The rest goes on.
	Paths bool

	// PathHosts are the hosts, in lower case, for which Paths counts, beside
	// addresses; none means any.
	PathHosts []string

	// OwnFields are the names of header fields, in lower case; Own is asked
	// about each request for "/" that has one of them.
	OwnFields []string

	// OwnPaths are paths that Own is asked about, unless Hosts finds an ID.
	OwnPaths []string

	// Answer returns the status and the text with which a visitor is told of
	// a problem, for its code in docs/errors.md and the status there.
	Answer func(code string, status int) (int, string)

	// UserAgent is what upstreams are told if the visitor says nothing.
	UserAgent string

	// MaxFields and MaxTarget bound the fields of a head and the bytes of a
	// request's target; 0 means 200 and 16 KiB.
	MaxFields, MaxTarget int
}

// limits are those of requests.
func (h *HTTP) limits() http1.Limits {
	if r := h.opts.Rules; r != nil {
		return http1.Limits{Fields: r.MaxFields, Target: r.MaxTarget, AnyTarget: true}
	}
	return http1.Limits{}
}

// A pathTold is a tunnel whose upstreams are told the path that the visitor
// asked for, without escapes, in a header field of that name.
type pathTold interface{ PathHeader() string }

// pathHeader returns the name of that field, or "".
func pathHeader(t tunnel.Tunnel) string {
	if p, ok := t.(pathTold); ok {
		return p.PathHeader()
	}
	return ""
}

// A hosted is a tunnel that may have an origin of its own. Then it is not found
// by a path, below which it would share one with others.
type hosted interface{ HasHost() bool }

// checkOrigin returns errNotFound if t is not to be found by key.
func checkOrigin(t tunnel.Tunnel, key string) error {
	if h, ok := t.(hosted); ok && h.HasHost() && strings.HasPrefix(key, "/") {
		return errNotFound
	}
	return nil
}

// find returns the key to route, and the target that the upstream gets. The
// error is errNotFound if there is no ID at all.
func (r *Rules) find(domain string, host, target []byte) (key string, rest []byte, err error) {
	if label := r.label(domain, host); label != "" {
		return label + "." + domain, target, nil
	}
	if !r.Paths || !r.hasPaths(host) {
		return "", nil, errNotFound
	}
	path := bytes.TrimPrefix(target, []byte("/"))
	end := bytes.IndexAny(path, "/?")
	if end < 0 {
		end = len(path)
	}
	if end == 0 {
		return "", nil, errNotFound
	}
	key, rest = "/"+string(path[:end]), path[end:]
	if len(rest) == 0 || rest[0] == '?' {
		rest = append([]byte{'/'}, rest...)
	}
	return key, rest, nil
}

// hasPaths reports whether a Host field names a host for which Paths counts.
func (r *Rules) hasPaths(host []byte) bool {
	if len(r.PathHosts) == 0 {
		return true
	}
	name, _, ok := http1.SplitHost(host)
	if !ok {
		return len(host) == 0 // HTTP/1.0
	}
	wanted := strings.TrimSuffix(strings.ToLower(string(name)), ".")
	if _, err := netip.ParseAddr(strings.Trim(wanted, "[]")); err == nil {
		return true
	}
	return slices.Contains(r.PathHosts, wanted)
}

// label returns the label of a Host field in front of the domain.
func (r *Rules) label(domain string, host []byte) string {
	if !r.Hosts || domain == "" {
		return ""
	}
	name, _, ok := http1.SplitHost(host)
	if !ok {
		return ""
	}
	before, ok := strings.CutSuffix(strings.TrimSuffix(strings.ToLower(string(name)), "."), "."+domain)
	if !ok {
		return ""
	}
	return before[strings.LastIndexByte(before, '.')+1:]
}

// isOwn reports whether Own is to be asked about a request.
func (r *Rules) isOwn(domain string, host []byte, target string, has func(field string) bool) bool {
	path, _, _ := strings.Cut(target, "?")
	if path == "/" || path == "" {
		return slices.ContainsFunc(r.OwnFields, has)
	}
	return slices.Contains(r.OwnPaths, path) && r.label(domain, host) == ""
}

// isOwnByRules is isOwn for the request in progress.
func (v *visitor) isOwnByRules() bool {
	req := &v.ex.req
	return v.h.opts.Rules.isOwn(v.h.opts.Domain, req.Host, string(req.Target), func(field string) bool {
		for i := range req.Fields {
			if http1.EqualFold(req.Fields[i].Name, field) {
				return true
			}
		}
		return false
	})
}

// routeByRules is route where there are Rules.
func (v *visitor) routeByRules() (to Target, err error) {
	ex := v.ex
	name := v.lookAt(ex.req.Host)
	if name.misdirected {
		return Target{}, errMisdirected
	}
	key, target, err := v.h.opts.Rules.find(v.h.opts.Domain, ex.req.Host, ex.req.Target)
	if err != nil {
		return Target{}, err
	}
	to, err = v.find(key)
	ex.key, ex.target = key, escapeTarget(target)
	if err == nil {
		err = checkOrigin(to.Tunnel, key)
	}
	return to, err
}

// escapeTarget escapes what must not be in a target.
func escapeTarget(target []byte) []byte {
	const hex = "0123456789ABCDEF"
	plain := func(c byte) bool { return c < 0x80 && c != '#' }
	if !slices.ContainsFunc(target, func(c byte) bool { return !plain(c) }) {
		return target
	}
	out := make([]byte, 0, len(target)+16)
	for _, c := range target {
		if plain(c) {
			out = append(out, c)
		} else {
			out = append(out, '%', hex[c>>4], hex[c&15])
		}
	}
	return out
}

// appendFieldsByRules appends the fields of the request as the upstream gets
// them where there are Rules.
func (v *visitor) appendFieldsByRules(out []byte) []byte {
	ex := v.ex
	agent := v.h.opts.Rules.UserAgent
	for i := range ex.req.Fields {
		f := &ex.req.Fields[i]
		if http1.EqualFold(f.Name, "user-agent") {
			agent = ""
			if len(f.Value) == 0 {
				continue
			}
		}
		switch f.Kind {
		case http1.HopByHop:
			if !passesByRules(f.Name) {
				continue
			}
		case http1.Expect:
			if !ex.req.Expect100 {
				continue
			}
		case http1.ContentLength:
			if ex.req.Framing == http1.NoBody {
				out = append(out, "Content-Length: 0\r\n"...)
			}
			continue
		case http1.Trailer:
			if ex.req.Framing != http1.Chunked || !announcesOnlyAllowed(f.Value) {
				continue
			}
		case http1.Host, http1.Connection, http1.Upgrade, http1.TE, http1.TransferEncoding, http1.Adit:
			continue
		}
		if ex.pathHeader != "" && strings.EqualFold(string(f.Name), ex.pathHeader) {
			continue
		}
		out = appendStripped(out, f, ex.pass)
	}
	if agent != "" {
		out = append(out, "User-Agent: "...)
		out = append(out, agent...)
		out = append(out, "\r\n"...)
	}
	return out
}

// passesByRules reports whether a field that is for one hop goes on all the
// same where there are Rules. Proxy and HTTP2-Settings would do harm there.
func passesByRules(name []byte) bool {
	return !http1.EqualFold(name, "proxy") && !http1.EqualFold(name, "http2-settings")
}

// appendPath appends the field in which the upstream is told the path, if it
// is.
func (v *visitor) appendPath(out []byte) []byte {
	ex := v.ex
	if ex.pathHeader == "" {
		return out
	}
	out = append(out, ex.pathHeader...)
	out = append(out, ": "...)
	out = append(out, decodedPath(string(ex.req.Target))...)
	return append(out, "\r\n"...)
}

// decodedPath returns the path of a target without escapes, fit for a header
// field.
func decodedPath(target string) string {
	path, _, _ := strings.Cut(target, "?")
	if decoded, err := url.PathUnescape(path); err == nil {
		path = decoded
	}
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, path))
}

// A told is what a visitor gets to see of a problem.
type told struct {
	status int
	body   []byte
	fields [][2]string
}

// sayOf returns what a visitor is told of p. accept is its Accept field, name
// what it asked for.
func (h *HTTP) sayOf(p *problem, accept, name string) told {
	if r := h.opts.Rules; r != nil && r.Answer != nil {
		status, text := r.Answer(p.code, p.status)
		return told{status, []byte(text), append([][2]string{
			{"Content-Type", "text/plain; charset=utf-8"},
			{"X-Content-Type-Options", "nosniff"},
			{"Content-Length", strconv.Itoa(len(text))},
		}, p.statusFields()...)}
	}
	return sayOf(p, accept, name)
}

// sayOf is HTTP.sayOf without Rules.
func sayOf(p *problem, accept, name string) told {
	body, contentType := p.page(accept, name)
	return told{p.status, body, p.fields(contentType, len(body))}
}

// answerOptions answers a request for "*", which is for the server as such.
func (v *visitor) answerOptions() end {
	v.stopWatch()
	v.ex.code = ""
	return v.answer(told{status: http.StatusOK, fields: [][2]string{{"Content-Length", "0"}}})
}

// routeByRules is route where there are Rules.
func (f *fallback) routeByRules(r *http.Request, to *routed) error {
	key, target, err := f.h.opts.Rules.find(f.h.opts.Domain, []byte(r.Host), []byte(targetOf(r)))
	if err != nil {
		return err
	}
	to.key, to.target = key, string(escapeTarget(target))
	to.Target, err = f.find(r, to, key)
	switch {
	case err != nil:
		return err
	case to.TLS:
		return errMisdirected
	}
	return checkOrigin(to.Tunnel, key)
}

// rewriteByRules makes a request for the upstream where there are Rules. in is
// as the visitor sent it; package httputil has taken too much out of out.
func (f *fallback) rewriteByRules(in, out *http.Request, to *routed) {
	path, query, asked := strings.Cut(to.target, "?")
	out.URL.Path, out.URL.RawPath = path, path
	if decoded, err := url.PathUnescape(path); err == nil {
		out.URL.Path = decoded
	}
	out.URL.RawQuery, out.URL.ForceQuery = query, asked && query == ""
	upgrade, te := out.Header.Get("Upgrade"), out.Header.Get("Te")
	connection := out.Header.Get("Connection")
	out.Header = in.Header.Clone()
	for name := range out.Header {
		switch http1.KindOf([]byte(name)) {
		case http1.HopByHop:
			if passesByRules([]byte(name)) {
				continue
			}
		case http1.Host, http1.Connection, http1.Upgrade, http1.TE, http1.TransferEncoding, http1.Trailer, http1.Adit:
		default:
			continue
		}
		delete(out.Header, name)
	}
	for name, value := range map[string]string{"Upgrade": upgrade, "Te": te, "Connection": connection} {
		if value != "" {
			out.Header.Set(name, value)
		}
	}
	strip(out.Header, to.pass)
	if agent, sent := out.Header["User-Agent"]; !sent {
		out.Header.Set("User-Agent", f.h.opts.Rules.UserAgent)
	} else if agent[0] == "" {
		out.Header["User-Agent"] = nil // or Transport would add its own
	}
}
