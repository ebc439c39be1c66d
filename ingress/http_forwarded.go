package ingress

import (
	"net/netip"

	"adit/internal/http1"
)

// forwardedBy returns what X-Forwarded-For and Forwarded say of a visitor; the
// latter is to be followed by its host.
func forwardedBy(addr netip.Addr, scheme string) (forFor, forFwd string) {
	switch {
	case !addr.IsValid():
		return "unknown", "for=unknown;proto=" + scheme
	case addr.Is6():
		return addr.String(), `for="[` + addr.String() + `]";proto=` + scheme
	}
	return addr.String(), "for=" + addr.String() + ";proto=" + scheme
}

// hostForUpstream returns what the upstream gets as Host. Only a visitor that
// speaks HTTP/1.0 has none.
func (v *visitor) hostForUpstream() []byte {
	switch {
	case len(v.ex.req.Host) > 0:
		return v.ex.req.Host
	case v.h.opts.Domain != "":
		return []byte(v.h.opts.Domain)
	}
	return []byte("localhost")
}

// appendForwarded appends exactly one each of X-Forwarded-For, X-Forwarded-Host,
// X-Forwarded-Proto and Forwarded (RFC 7239). What the visitor sent of them
// counts only if it is a trusted proxy.
func (v *visitor) appendForwarded(out []byte) []byte {
	ex := v.ex
	if v.trusted {
		return v.appendForwardedOn(out)
	}
	out = append(out, "X-Forwarded-For: "...)
	out = append(out, v.forFor...)
	out = append(out, "\r\nX-Forwarded-Host: "...)
	out = append(out, v.hostForUpstream()...)
	out = append(out, "\r\nX-Forwarded-Proto: "...)
	out = append(out, v.h.schemeOf(v.secure)...)
	out = append(out, "\r\n"...)
	out = append(out, "Forwarded: "...)
	out = v.appendElement(out)
	out = append(out, "\r\n"...)
	if ex.prefix != "" {
		out = append(out, "X-Forwarded-Prefix: "...)
		out = append(out, ex.prefix...)
		out = append(out, "\r\n"...)
	}
	return out
}

// appendElement appends this hop's element of Forwarded.
func (v *visitor) appendElement(out []byte) []byte {
	out = append(out, v.forFwd...)
	out = append(out, ";host="...)
	host := v.hostForUpstream()
	quote := false
	for _, c := range host {
		quote = quote || c == ':' || c == '['
	}
	if quote {
		out = append(out, '"')
	}
	out = append(out, host...)
	if quote {
		out = append(out, '"')
	}
	return out
}

// appendForwardedOn is appendForwarded for a trusted proxy: lists grow by this
// hop, and single values are kept if there is exactly one that is valid.
func (v *visitor) appendForwardedOn(out []byte) []byte {
	ex := v.ex
	var host []byte
	var hosts int
	for _, f := range ex.req.Fields {
		switch f.Kind {
		case http1.ForwardedHost:
			hosts++
			if _, _, ok := http1.SplitHost(f.Value); ok {
				host = f.Value
			}
		case http1.ForwardedOther:
			if ex.prefix == "" || !http1.EqualFold(f.Name, "x-forwarded-prefix") {
				out = http1.AppendField(out, f.Name, f.Value)
			}
		}
	}
	proto := ex.forwardedProto()
	if proto == nil {
		proto = []byte(v.h.schemeOf(v.secure))
	}
	if hosts != 1 || host == nil {
		host = v.hostForUpstream()
	}
	out = append(out, "X-Forwarded-For: "...)
	out = ex.appendList(out, http1.ForwardedFor)
	out = append(out, v.forFor...)
	out = append(out, "\r\nX-Forwarded-Host: "...)
	out = append(out, host...)
	out = append(out, "\r\nX-Forwarded-Proto: "...)
	out = append(out, proto...)
	out = append(out, "\r\nForwarded: "...)
	out = ex.appendList(out, http1.Forwarded)
	out = v.appendElement(out)
	out = append(out, "\r\n"...)
	if ex.prefix != "" {
		out = append(out, "X-Forwarded-Prefix: "...)
		for _, f := range ex.req.Fields {
			if f.Kind == http1.ForwardedOther && http1.EqualFold(f.Name, "x-forwarded-prefix") && len(f.Value) > 0 && f.Value[0] == '/' {
				out = append(out, f.Value...)
				break
			}
		}
		out = append(out, ex.prefix...)
		out = append(out, "\r\n"...)
	}
	return out
}

// forwardedProto returns X-Forwarded-Proto if there is exactly one that is
// valid, and nil otherwise.
func (ex *exchange) forwardedProto() (proto []byte) {
	protos := 0
	for _, f := range ex.req.Fields {
		if f.Kind != http1.ForwardedProto {
			continue
		}
		protos++
		if http1.EqualFold(f.Value, "http") || http1.EqualFold(f.Value, "https") {
			proto = f.Value
		}
	}
	if protos != 1 {
		return nil
	}
	return proto
}

// appendList appends all values of the fields of that kind, each with a comma
// behind it.
func (ex *exchange) appendList(out []byte, kind http1.Kind) []byte {
	for _, f := range ex.req.Fields {
		if f.Kind == kind && len(f.Value) > 0 {
			out = append(out, f.Value...)
			out = append(out, ", "...)
		}
	}
	return out
}
