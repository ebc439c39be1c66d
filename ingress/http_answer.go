package ingress

import "net/http"

// fail answers with what became of the request instead of a response.
func (v *visitor) fail(err error) end {
	ex := v.ex
	v.stopWatch()
	err = unasked(err, v.tls, string(ex.req.Host))
	p := explain(err)
	ex.code = p.code
	if p.code == probCertificate.code {
		ex.req.KeepAlive = false // it could show another one on a new conn alone
	}
	if ex.tunnel != nil {
		v.h.opts.Logger.Debug("request failed", "tunnel", ex.id, "service", ex.service, "err", err)
	}
	if v.gone.Load() || p == probVisitorLeft {
		ex.status, ex.code = probVisitorLeft.status, probVisitorLeft.code
		return abortConn
	}
	if ex.started {
		return abortConn
	}
	return v.answer(v.h.sayOf(p, string(ex.req.Accept), nameAsked(ex)))
}

// nameAsked is what an error page may show of a request.
func nameAsked(ex *exchange) string {
	if ex.prefix != "" {
		return ex.prefix[1:]
	}
	return string(ex.req.Host)
}

func (v *visitor) answer(t told) end {
	ex := v.ex
	ex.status = t.status
	read := ex.upload == nil && ex.bodyLeft >= 0 && ex.skipBody()
	keep := read && ex.req.KeepAlive && !v.h.parting()
	head := string(ex.req.Method) == "HEAD"
	ex.out = t.append(ex.out[:0], ex.minor(), keep, head)
	if head {
		t.body = nil
	}
	return v.send(len(t.body), read, keep)
}

// send writes ex.out, an answer of the ingress's own with n bytes of body. read
// says that all of the request was read.
func (v *visitor) send(n int, read, keep bool) end {
	ex := v.ex
	ex.started = true
	if _, err := v.conn.Write(ex.out); err != nil {
		return abortConn
	}
	ex.sent = int64(n)
	switch {
	case !read:
		return lingerFirst
	case !keep:
		return closeConn
	}
	return keepConn
}

// minor is the version to answer with; malformed requests get that of now.
func (ex *exchange) minor() int {
	if len(ex.req.Method) == 0 {
		return 1
	}
	return ex.req.Minor
}

// append appends a whole response.
func (t told) append(out []byte, minor int, keep, head bool) []byte {
	out = appendStatus(out, minor, t.status)
	out = append(out, http.StatusText(t.status)...)
	out = append(out, "\r\n"...)
	out = appendDate(out)
	for _, f := range t.fields {
		out = append(out, f[0]...)
		out = append(out, ": "...)
		out = append(out, f[1]...)
		out = append(out, "\r\n"...)
	}
	out = appendConnection(out, minor, keep)
	out = append(out, "\r\n"...)
	if !head {
		out = append(out, t.body...)
	}
	return out
}

// redirect sends the visitor elsewhere: from /<id> to /<id>/, so that relative
// links work, or to TLS.
func (v *visitor) redirect(location string) end {
	ex := v.ex
	v.stopWatch()
	read := ex.skipBody()
	keep := read && ex.req.KeepAlive && !v.h.parting()
	ex.status = 308
	out := appendStatus(ex.out[:0], ex.req.Minor, ex.status)
	out = append(out, "Permanent Redirect\r\n"...)
	out = appendDate(out)
	out = append(out, "Location: "...)
	out = append(out, location...)
	out = append(out, "\r\nContent-Length: 0\r\n"...)
	out = appendConnection(out, ex.req.Minor, keep)
	ex.out = append(out, "\r\n"...)
	return v.send(0, read, keep)
}
