package wstunnel

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"adit/internal/http1"
)

// A reply is an answer on its way to a caller, and the memory for it.
type reply struct {
	status int
	fields []http1.Field // in their order; what frames the body is not among them, but for Content-Length
	length int64         // of the body; -1 if nobody knows
	body   io.Reader

	parsed http1.Response
	head   []byte // that fields are parts of
}

// maxReplyFields bounds the fields of an answer's head.
const maxReplyFields = 1000

// read reads the head of an answer to a request, and leaves the body in br.
func (p *reply) read(br *bufio.Reader, method []byte) error {
	if ok, err := p.readPlain(br, method); ok || err != nil {
		return err
	}
	// In chunks, or in a form that net/http takes and we do not.
	resp, err := http.ReadResponse(br, &http.Request{Method: string(method)})
	if err != nil {
		return err
	}
	if resp.StatusCode < 200 || resp.StatusCode > 999 {
		return errGarbage
	}
	p.status, p.length, p.body = resp.StatusCode, resp.ContentLength, resp.Body
	p.fields = p.fields[:0]
	for name, values := range resp.Header {
		if slices.Contains(dropped, name) {
			continue
		}
		for _, v := range values {
			p.fields = append(p.fields, http1.Field{Name: []byte(name), Value: []byte(v), Kind: http1.KindOf([]byte(name))})
		}
	}
	p.finish(string(method) == http.MethodHead)
	return nil
}

// readPlain is read for what package http1 understands. It reports false, and
// has read nothing, if there is something else.
func (p *reply) readPlain(br *bufio.Reader, method []byte) (bool, error) {
	var scan http1.Scanner
	n := 0
	for want := 1; n == 0; want = br.Buffered() + 1 {
		if want > br.Size() {
			return false, nil
		}
		if _, err := br.Peek(want); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return false, err
		}
		b, _ := br.Peek(br.Buffered())
		var err error
		if n, err = scan.Response(b); err != nil {
			return false, nil
		}
	}
	b, _ := br.Peek(n)
	p.head = append(p.head[:0], b...)
	if bytes.HasPrefix(p.head, []byte("HTTP/2.0 ")) { // of a local server, through an original
		copy(p.head, "HTTP/1.1")
	}
	if p.parsed.Parse(p.head, method, http1.Limits{Fields: maxReplyFields}) != nil ||
		p.parsed.Status < 200 || p.parsed.Framing == http1.Chunked {
		return false, nil
	}
	br.Discard(n)
	p.status, p.length, p.body = p.parsed.Status, p.parsed.Length, br
	if p.parsed.Framing == http1.UntilClose {
		p.length = -1
	}
	p.fields = p.fields[:0]
	for _, f := range p.parsed.Fields {
		if !isDropped(&f) {
			p.fields = append(p.fields, f)
		}
	}
	p.finish(string(method) == http.MethodHead)
	return true, nil
}

// isDropped reports whether a field is one of dropped.
func isDropped(f *http1.Field) bool {
	switch f.Kind {
	case http1.Connection, http1.TE, http1.Trailer, http1.TransferEncoding:
		return true
	case http1.HopByHop:
		return http1.EqualFold(f.Name, "keep-alive")
	}
	return http1.EqualFold(f.Name, "trailers")
}

// finish sorts the fields, leaves out those that the status does not allow, and
// knows an answer that has no body.
func (p *reply) finish(head bool) {
	sortFields(p.fields)
	if head || p.status == http.StatusNoContent || p.status == http.StatusNotModified {
		p.length = 0
	}
	kept, lengths := p.fields[:0], 0
	for _, f := range p.fields {
		switch {
		case f.Kind == http1.ContentLength:
			if lengths++; lengths > 1 || p.status == http.StatusNoContent || p.status == http.StatusNotModified || p.length < 0 {
				continue
			}
		case p.status == http.StatusNotModified && http1.EqualFold(f.Name, "content-type"):
			continue
		}
		kept = append(kept, f)
	}
	p.fields = kept
}

// set makes p an answer of the server's own, as http.Error does.
func (p *reply) set(status int, text string) {
	p.status, p.length, p.body = status, 0, nil
	p.fields = p.fields[:0]
	if text == "" {
		return
	}
	text += "\n"
	p.length, p.body = int64(len(text)), bytes.NewReader([]byte(text))
	p.fields = append(p.fields,
		http1.Field{Name: []byte("Content-Type"), Value: []byte("text/plain; charset=utf-8")},
		http1.Field{Name: []byte("X-Content-Type-Options"), Value: []byte("nosniff")})
}

// The end of a head, as net/http writes it.
const (
	sniffed  = 512     // bytes that a Content-Type is guessed from
	gathered = 2 << 10 // bytes of a body of unknown length that get a Content-Length
)

// appendHead appends the head of p. first is what is known of the body, and all
// of it if whole is true. chunked says that the body has to go in chunks.
func (p *reply) appendHead(b, first []byte, whole, head, keep bool) (_ []byte, chunked bool) {
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(p.status), 10)
	if text := http.StatusText(p.status); text != "" {
		b = append(append(b, ' '), text...)
	} else {
		b = append(b, " status code "...)
		b = strconv.AppendInt(b, int64(p.status), 10)
	}
	b = append(b, "\r\n"...)
	dated, typed, sized, coded := false, false, false, false
	for i := range p.fields {
		f := &p.fields[i]
		switch {
		case f.Kind == http1.Date:
			dated = true
		case f.Kind == http1.ContentLength:
			sized = true
		case http1.EqualFold(f.Name, "content-type"):
			typed = true
		case http1.EqualFold(f.Name, "content-encoding"):
			coded = coded || len(f.Value) > 0
		}
		b = http1.AppendField(b, f.Name, f.Value)
	}
	if !dated {
		b = appendDate(b, time.Now())
	}
	bodyless := head || p.status == http.StatusNoContent || p.status == http.StatusNotModified
	switch {
	case sized || bodyless:
	case whole:
		b = append(b, "Content-Length: "...)
		b = append(strconv.AppendInt(b, int64(len(first)), 10), "\r\n"...)
	default:
		chunked = true
	}
	if !typed && !coded && len(first) > 0 {
		b = append(b, "Content-Type: "...)
		b = append(b, http.DetectContentType(first[:min(len(first), sniffed)])...)
		b = append(b, "\r\n"...)
	}
	if !keep {
		b = append(b, "Connection: close\r\n"...)
	}
	if chunked {
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	return append(b, "\r\n"...), chunked
}

// A datedSecond is a second and its Date field.
type datedSecond struct {
	unix int64
	line []byte
}

var lastDate atomic.Pointer[datedSecond]

// appendDate appends a Date field, which is written once a second.
func appendDate(b []byte, now time.Time) []byte {
	d := lastDate.Load()
	if d == nil || d.unix != now.Unix() {
		line := now.UTC().AppendFormat([]byte("Date: "), http.TimeFormat)
		d = &datedSecond{now.Unix(), append(line, "\r\n"...)}
		lastDate.Store(d)
	}
	return append(b, d.line...)
}
