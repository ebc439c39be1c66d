package httprelay

import (
	"net/http"
	"net/netip"
	"strings"

	"adit/internal/http1"
)

// An origin is a scheme, and a host with the port unless it is the scheme's.
type origin struct{ scheme, host string }

// newOrigin returns the origin of a scheme and a Host field.
func newOrigin(scheme, host string) origin {
	scheme, host = strings.ToLower(scheme), strings.ToLower(host)
	switch scheme {
	case "http":
		host = strings.TrimSuffix(host, ":80")
	case "https":
		host = strings.TrimSuffix(host, ":443")
	}
	return origin{scheme, host}
}

func (o origin) String() string { return o.scheme + "://" + o.host }

// name is the host without port.
func (o origin) name() string {
	if i := strings.LastIndexByte(o.host, ':'); i >= 0 && !strings.HasSuffix(o.host, "]") {
		return o.host[:i]
	}
	return o.host
}

// names reports whether a host of an http or https URL is that of o. The scheme
// is left out of account: who ends TLS for whom is not known.
func (o origin) names(scheme, host string) bool { return newOrigin(scheme, host).host == o.host }

// splitURL splits an absolute http or https URL, or one without a scheme, into
// its scheme, host and the rest. ok is false for everything else, such as a path
// or a URL with a user.
func splitURL(s string) (scheme, host, rest string, ok bool) {
	scheme, rest, found := strings.Cut(s, "//")
	switch {
	case !found:
		return "", "", "", false
	case scheme == "":
	case strings.EqualFold(scheme, "http:"), strings.EqualFold(scheme, "https:"):
		scheme = strings.ToLower(scheme[:len(scheme)-1])
	default:
		return "", "", "", false
	}
	end := strings.IndexAny(rest, "/?#\\")
	if end < 0 {
		end = len(rest)
	}
	host, rest = rest[:end], rest[end:]
	if host == "" || strings.ContainsAny(host, "@ ") {
		return "", "", "", false
	}
	return scheme, host, rest, true
}

// hostRewriter lets the upstream see its own name alone, and visitors only that
// of the tunnel.
type hostRewriter struct{ own origin }

// publicOrigin is what the visitor knows the tunnel as.
func publicOrigin(r *http.Request) origin {
	scheme, host := "http", r.Host
	if p := r.Header.Values("X-Forwarded-Proto"); len(p) == 1 && strings.EqualFold(p[0], "https") {
		scheme = "https"
	}
	if h := r.Header.Values("X-Forwarded-Host"); len(h) == 1 && h[0] != "" {
		host = h[0]
	}
	return newOrigin(scheme, host)
}

// request changes a request on its way to the upstream: the fields that name
// the tunnel name the upstream instead, and those that would tell it of another
// name are gone. Origins of others stay as they are, since the upstream has to
// see that they are others.
func (h hostRewriter) request(r *http.Request, public origin) {
	prefix := r.Header.Get("X-Forwarded-Prefix")
	r.Host = h.own.host
	for _, name := range []string{"Origin", "Referer", "Destination"} {
		for i, v := range r.Header[name] {
			r.Header[name][i] = h.toOwn(v, public, prefix)
		}
	}
	delete(r.Header, "X-Forwarded-Host")
	delete(r.Header, "X-Forwarded-Proto")
	for i, v := range r.Header["Forwarded"] {
		r.Header["Forwarded"][i] = onlyFor(v)
	}
}

func (h hostRewriter) toOwn(s string, public origin, prefix string) string {
	scheme, host, rest, ok := splitURL(s)
	if !ok || scheme == "" || !public.names(scheme, host) {
		return s
	}
	if below, ok := strings.CutPrefix(rest, prefix); prefix != "" && ok && (below == "" || strings.ContainsRune("/?#", rune(below[0]))) {
		rest = below
	}
	return h.own.String() + rest
}

// response changes a response on its way to the visitor. pathMode says that the
// tunnel is below a path of the public host, which the server adds to what has
// no host.
func (h hostRewriter) response(header http.Header, public origin, pathMode bool) {
	for _, name := range []string{"Location", "Content-Location", "Access-Control-Allow-Origin"} {
		for i, v := range header[name] {
			header[name][i] = h.toPublic(v, public, pathMode && name != "Access-Control-Allow-Origin")
		}
	}
	for i, v := range header["Refresh"] {
		if at := strings.Index(strings.ToLower(v), "url="); at >= 0 {
			at += len("url=")
			header["Refresh"][i] = v[:at] + h.toPublic(v[at:], public, false)
		}
	}
	for i, v := range header["Link"] {
		header["Link"][i] = h.links(v, public)
	}
	for i, v := range header["Set-Cookie"] {
		header["Set-Cookie"][i] = h.cookie(v, public)
	}
}

func (h hostRewriter) toPublic(s string, public origin, noHost bool) string {
	scheme, host, rest, ok := splitURL(s)
	switch {
	case !ok || !h.own.names(orElse(scheme, h.own.scheme), host):
		return s
	case noHost:
		if rest == "" || rest[0] != '/' {
			rest = "/" + rest
		}
		if strings.HasPrefix(rest, "//") {
			return public.String() + rest // alone it would name a host
		}
		return rest
	case scheme == "":
		return "//" + public.host + rest
	}
	return public.String() + rest
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// links rewrites the URLs of a Link field (RFC 8288), which are in angle
// brackets.
func (h hostRewriter) links(v string, public origin) string {
	var b strings.Builder
	for {
		before, rest, ok := strings.Cut(v, "<")
		link, after, closed := strings.Cut(rest, ">")
		if !ok || !closed {
			b.WriteString(v)
			return b.String()
		}
		b.WriteString(before + "<" + h.toPublic(link, public, false) + ">")
		v = after
	}
}

// cookie rewrites the Domain of a Set-Cookie field if the upstream's name is in
// it, and drops it where the public host can have none.
func (h hostRewriter) cookie(v string, public origin) string {
	parts := strings.Split(v, ";")
	kept := parts[:1]
	for _, part := range parts[1:] {
		name, value, _ := strings.Cut(part, "=")
		if !strings.EqualFold(strings.TrimSpace(name), "domain") {
			kept = append(kept, part)
			continue
		}
		domain := strings.ToLower(strings.TrimPrefix(strings.TrimSpace(value), "."))
		own := h.own.name()
		if domain != own && !strings.HasSuffix(own, "."+domain) {
			kept = append(kept, part) // of others: browsers refuse it
			continue
		}
		to := public.name()
		if _, err := netip.ParseAddr(strings.Trim(to, "[]")); err != nil && strings.Contains(to, ".") {
			kept = append(kept, " Domain="+to)
		}
	}
	return strings.Join(kept, ";")
}

// onlyFor leaves of a Forwarded field (RFC 7239) who the visitor is, and takes
// out host and proto.
func onlyFor(v string) string {
	var elements []string
	for _, element := range http1.SplitQuoted(v, ',') {
		var kept []string
		for _, pair := range http1.SplitQuoted(element, ';') {
			name, _, _ := strings.Cut(strings.TrimSpace(pair), "=")
			if !strings.EqualFold(name, "host") && !strings.EqualFold(name, "proto") && name != "" {
				kept = append(kept, strings.TrimSpace(pair))
			}
		}
		elements = append(elements, strings.Join(kept, ";"))
	}
	return strings.Join(elements, ", ")
}
