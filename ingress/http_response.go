package ingress

import (
	"strconv"
	"sync/atomic"
	"time"

	"adit/internal/http1"
)

// appendResponseHead appends the status line and the fields of ex.resp that
// are passed on. What says how the body is framed is not among them.
func (v *visitor) appendResponseHead(out []byte) []byte {
	ex := v.ex
	resp := &ex.resp
	out = appendStatus(out, ex.req.Minor, resp.Status)
	out = append(out, resp.Reason...)
	out = append(out, "\r\n"...)
	dated := resp.Status < 200
	for i := range resp.Fields {
		f := &resp.Fields[i]
		switch f.Kind {
		case http1.Adit:
			if !ex.pass.AgentErrors || !isAgentError(f.Name, f.Value) {
				continue
			}
			ex.code = string(f.Value)
		case http1.Lookalike:
			if v.h.opts.Rules == nil {
				continue
			}
		case http1.ContentLength:
			continue
		case http1.HopByHop:
			if v.h.opts.Rules != nil {
				out = http1.AppendField(out, f.Name, f.Value)
				continue
			}
		case http1.Trailer:
			if resp.Framing != http1.Chunked || ex.req.Minor == 0 || !announcesOnlyAllowed(f.Value) {
				continue
			}
		case http1.Date:
			dated = true
		}
		if f.Hop && f.Kind != http1.Trailer && (v.h.opts.Rules == nil || f.Kind != http1.Other) {
			continue
		}
		if ex.prefix != "" && (f.Kind == http1.Location || f.Kind == http1.SetCookie) {
			out = append(out, f.Name...)
			out = append(out, ": "...)
			if f.Kind == http1.Location {
				out = appendLocation(out, f.Value, ex.req.Host, ex.prefix)
			} else {
				out = appendCookie(out, f.Value, ex.prefix)
			}
			out = append(out, "\r\n"...)
			continue
		}
		out = http1.AppendField(out, f.Name, f.Value)
	}
	if !dated {
		out = appendDate(out)
	}
	return out
}

func appendStatus(out []byte, minor, status int) []byte {
	out = append(out, "HTTP/1."...)
	out = append(out, byte('0'+minor), ' ')
	out = strconv.AppendInt(out, int64(status), 10)
	return append(out, ' ')
}

// A datedSecond is a second and its Date field.
type datedSecond struct {
	unix int64
	line []byte
}

var lastDate atomic.Pointer[datedSecond]

// appendDate appends a Date field, which is written once a second.
func appendDate(out []byte) []byte {
	now := time.Now()
	d := lastDate.Load()
	if d == nil || d.unix != now.Unix() {
		line := now.UTC().AppendFormat([]byte("Date: "), "Mon, 02 Jan 2006 15:04:05 GMT")
		d = &datedSecond{now.Unix(), append(line, "\r\n"...)}
		lastDate.Store(d)
	}
	return append(out, d.line...)
}

// relayResponse sends on the response whose head is the first bytes of
// ex.rin[:have]. whole says that the request was not cut short by the upstream.
func (v *visitor) relayResponse(s *stream, head, have int, whole bool) end {
	ex := v.ex
	resp := &ex.resp
	first := ex.rin[head:have]

	b := &ex.body
	*b = body{v: v, s: s, reuse: resp.KeepAlive && whole}
	b.keep = ex.req.KeepAlive && whole && !v.h.parting() && (ex.upload == nil || ex.upload.complete.Load())
	b.chunk = ex.req.Minor == 1 && (resp.Framing == http1.Chunked || resp.Framing == http1.UntilClose)
	if ex.req.Minor == 0 && (resp.Framing == http1.Chunked || resp.Framing == http1.UntilClose) {
		b.keep = false
	}

	out := v.appendResponseHead(ex.out[:0])
	switch {
	case b.chunk:
		out = append(out, "Transfer-Encoding: chunked\r\n"...)
	case resp.Framing == http1.Length:
		out = appendContentLength(out, resp.Length)
	case resp.Framing == http1.NoBody && resp.Status != 204 && resp.Status >= 200:
		if n, ok := announcedLength(resp); ok { // of what HEAD and 304 leave out
			out = appendContentLength(out, n)
		}
	}
	out = appendConnection(out, ex.req.Minor, b.keep)
	out = append(out, "\r\n"...)
	ex.status = resp.Status
	ex.out = out
	return b.relay(first)
}

func appendContentLength(out []byte, n int64) []byte {
	out = append(out, "Content-Length: "...)
	out = strconv.AppendInt(out, n, 10)
	return append(out, "\r\n"...)
}

// appendConnection says whether the conn stays, where that is not the default
// of the version.
func appendConnection(out []byte, minor int, keep bool) []byte {
	switch {
	case !keep:
		return append(out, "Connection: close\r\n"...)
	case minor == 0:
		return append(out, "Connection: keep-alive\r\n"...)
	}
	return out
}

func announcedLength(resp *http1.Response) (int64, bool) {
	for _, f := range resp.Fields {
		if f.Kind == http1.ContentLength {
			n, err := strconv.ParseInt(string(f.Value), 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

// endWait ends the watch or the upload that goes on beside a response. It
// reports whether all of the request was sent.
func (v *visitor) endWait(s *stream) bool {
	whole := true
	if v.ex.upload != nil {
		whole = v.endUpload(s)
	} else {
		v.stopWatch()
	}
	v.use(nil)
	return whole
}
