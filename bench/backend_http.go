package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// requestHead is one parsed request of a visitor.
type requestHead struct {
	isHead bool
	close  bool // the connection ends with the answer
	expect bool
	path   string
	query  []byte
	all    []byte // as it came, for /headers
	body   bodyReader
	wsKey  []byte // of a websocket handshake, else nil
	idText []byte
	id     uint64
}

// backendRequest is one connection that speaks HTTP/1.1.
type backendRequest struct {
	c   net.Conn
	br  *bufio.Reader
	bw  *bufio.Writer
	num []byte
	requestHead
}

// backendHTTP answers requests on c until either side ends it.
func backendHTTP(c net.Conn, br *bufio.Reader) {
	r := &backendRequest{c: c, br: br, bw: bufio.NewWriterSize(c, 18<<10), num: make([]byte, 0, 20)}
	for {
		if r.readHead() != nil {
			return
		}
		if r.wsKey != nil {
			backendWS(c, br, r.wsKey)
			return
		}
		if r.expect {
			r.bw.WriteString("HTTP/1.1 100 Continue\r\n\r\n")
			r.bw.Flush()
		}
		if r.answer() != nil || r.bw.Flush() != nil || r.close {
			return
		}
	}
}

var errBadRequest = errors.New("backend: bad request")

// readHead parses the next request up to its body.
func (r *backendRequest) readHead() error {
	line, err := r.br.ReadSlice('\n')
	if err != nil {
		return err
	}
	h := requestHead{all: append(r.all[:0], line...), body: bodyReader{br: r.br, first: true}}
	f := bytes.Fields(h.all)
	if len(f) < 3 {
		return errBadRequest
	}
	h.isHead = string(f[0]) == "HEAD"
	h.close = string(f[2]) == "HTTP/1.0"
	target := f[1]
	if _, rest, ok := bytes.Cut(target, []byte("://")); ok {
		_, path, _ := bytes.Cut(rest, []byte("/"))
		target = append([]byte("/"), path...)
	}
	path, query, _ := bytes.Cut(target, []byte("?"))
	h.path = string(path)
	h.query = bytes.Clone(query)
	h.idText = queryArg(h.query, "id")
	h.id, _ = parseHex(h.idText)
	upgrade := false
	for {
		line, err := r.br.ReadSlice('\n')
		if err != nil {
			return err
		}
		t := bytes.TrimRight(line, "\r\n")
		if len(t) == 0 {
			break
		}
		h.all = append(h.all, line...)
		k, v, ok := bytes.Cut(t, []byte(":"))
		if !ok {
			continue
		}
		v = bytes.TrimSpace(v)
		switch len(k) { // cheaper than comparing each name with all of these
		case len("Expect"):
			h.expect = h.expect || bytes.EqualFold(k, []byte("Expect"))
		case len("Upgrade"):
			upgrade = upgrade || bytes.EqualFold(k, []byte("Upgrade")) && bytes.EqualFold(v, []byte("websocket"))
		case len("Connection"):
			h.close = h.close || bytes.EqualFold(k, []byte("Connection")) && bytes.EqualFold(v, []byte("close"))
		case len("Content-Length"):
			if bytes.EqualFold(k, []byte("Content-Length")) {
				n, ok := parseDec(v)
				if !ok {
					return errBadRequest
				}
				h.body.left = n
			}
		case len("Transfer-Encoding"): // and of Sec-WebSocket-Key
			if bytes.EqualFold(k, []byte("Transfer-Encoding")) && bytes.EqualFold(v, []byte("chunked")) {
				h.body.chunked, h.body.left = true, 0
			} else if bytes.EqualFold(k, []byte("Sec-WebSocket-Key")) {
				h.wsKey = bytes.Clone(v)
			}
		}
	}
	if !upgrade {
		h.wsKey = nil
	}
	r.requestHead = h
	return nil
}

// reply writes the head of an answer with n bytes of body.
func (r *backendRequest) reply(status string, n int64) {
	r.bw.WriteString("HTTP/1.1 ")
	r.bw.WriteString(status)
	r.bw.WriteString("\r\nContent-Type: application/octet-stream\r\nX-Req-Id: ")
	r.bw.Write(r.idText)
	r.bw.WriteString("\r\nContent-Length: ")
	r.num = strconv.AppendInt(r.num[:0], n, 10)
	r.bw.Write(r.num)
	if r.close {
		r.bw.WriteString("\r\nConnection: close")
	}
	r.bw.WriteString("\r\n\r\n")
}

// replyText writes a whole answer.
func (r *backendRequest) replyText(status, text string) {
	r.reply(status, int64(len(text)))
	if !r.isHead {
		r.bw.WriteString(text)
	}
}

// answer reads the body and writes the answer, but for the last flush. Its
// error ends the connection.
func (r *backendRequest) answer() error {
	if r.path == "/sink" || r.path == "/upload" {
		return r.answerUpload()
	}
	var body bytes.Buffer
	keep := io.Discard
	if r.path == "/echo" {
		keep = &body
	}
	if err := r.body.copyTo(keep); err != nil {
		return err
	}
	if size, ok := strings.CutPrefix(r.path, "/bytes/"); ok {
		n, ok := parseDec([]byte(size))
		if !ok {
			return errBadRequest
		}
		return r.answerBytes(n)
	}
	switch r.path {
	case "/echo":
		r.replyText("200 OK", body.String())
	case "/slow":
		ms, _ := parseDec(queryArg(r.query, "ms"))
		time.Sleep(time.Duration(ms) * time.Millisecond)
		r.replyText("200 OK", "slow\n")
	case "/sse":
		return r.answerEvents()
	case "/headers":
		r.replyText("200 OK", string(r.all))
	default:
		r.replyText("404 Not Found", "not found\n")
	}
	return nil
}

func (r *backendRequest) answerBytes(n int64) error {
	r.reply("200 OK", n)
	if r.isHead {
		return nil
	}
	if n <= 16<<10 {
		_, err := r.bw.Write(patAt(seedOf(r.id), 0, int(n)))
		return err
	}
	if err := r.bw.Flush(); err != nil {
		return err
	}
	return writePattern(r.c, seedOf(r.id), n)
}

func (r *backendRequest) answerUpload() error {
	v := verifier{seed: seedOf(r.id)}
	verdict := "good"
	for {
		p, err := r.body.next()
		if err != nil {
			return err
		}
		if p == nil {
			break
		}
		if verdict == "bad" {
			v.off += int64(len(p))
		} else if !v.check(p) {
			verdict = "bad"
		}
		r.body.advance(p)
	}
	r.replyText("200 OK", fmt.Sprintf("%s %d", verdict, v.off))
	return nil
}

// answerEvents sends n events (default 10), one each ms milliseconds (100).
func (r *backendRequest) answerEvents() error {
	n, ok := parseDec(queryArg(r.query, "n"))
	if !ok {
		n = 10
	}
	ms, ok := parseDec(queryArg(r.query, "ms"))
	if !ok {
		ms = 100
	}
	fmt.Fprintf(r.bw, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nX-Req-Id: %s\r\nTransfer-Encoding: chunked\r\n\r\n", r.idText)
	for i := range n {
		ev := fmt.Sprintf("id: %d\ndata: %d\n\n", i, time.Now().UnixNano())
		fmt.Fprintf(r.bw, "%x\r\n%s\r\n", len(ev), ev)
		if err := r.bw.Flush(); err != nil {
			return err
		}
		time.Sleep(time.Duration(ms) * time.Millisecond)
	}
	_, err := r.bw.WriteString("0\r\n\r\n")
	return err
}

func queryArg(q []byte, key string) []byte {
	for len(q) > 0 {
		var kv []byte
		if i := bytes.IndexByte(q, '&'); i >= 0 {
			kv, q = q[:i], q[i+1:]
		} else {
			kv, q = q, nil
		}
		if i := bytes.IndexByte(kv, '='); i >= 0 && string(kv[:i]) == key {
			return kv[i+1:]
		}
	}
	return nil
}
