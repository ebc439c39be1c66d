package requests

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// FuzzHead reads heads as they come before anything is proved.
func FuzzHead(f *testing.F) {
	key := make([]byte, 32)
	h := head{op: opPoll, id: id{1}, number: 2, received: 3, position: 1, size: 4, wait: 5}
	f.Add(h.encode(key))
	f.Add("")
	f.Add(strings.Repeat("A", 112))
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := parseHead(s)
		if !ok {
			return
		}
		again := got.head
		if got.proven(key) && again.encode(key) != s {
			t.Errorf("%q is proven, and encodes as %q", s, again.encode(key))
		}
	})
}

// FuzzServe makes requests of a server, whose conns nobody knows.
func FuzzServe(f *testing.F) {
	f.Add("poll", []byte("x"))
	f.Add("stream", bytes.Repeat([]byte{9}, 32))
	f.Fuzz(func(t *testing.T, value string, body []byte) {
		s := NewServer(Options{})
		r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
		r.Header[Header] = []string{value}
		w := httptest.NewRecorder()
		if !OpensConn(r) {
			s.ServeHTTP(w, r)
			if w.Code < 400 {
				t.Errorf("status %d for %q", w.Code, value)
			}
			return
		}
		if c, _, err := s.Open(w, r); err == nil {
			c.Close()
			for _, c := range s.conns {
				c.gone()
			}
		}
	})
}

// FuzzFrames reads frames and events, as the dialler does of whatever answers.
func FuzzFrames(f *testing.F) {
	key := newAEAD(make([]byte, 32))
	good := (&frame{position: 7, number: 1, data: []byte("hello")}).seal(nil, key, 3)
	f.Add(good)
	f.Add(appendEvent(nil, good))
	f.Add([]byte("data: !!\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if fr, buf, err := readFrame(bytes.NewReader(b), key, 3, frameData); err == nil {
			if len(fr.data) > frameData {
				t.Errorf("a frame has %d bytes", len(fr.data))
			}
			buf.release()
		}
		if got, err := io.ReadAll(newEventReader(bytes.NewReader(b))); err != nil && len(got) > len(b) {
			t.Errorf("%d bytes came out of %d", len(got), len(b))
		}
		open(bytes.Clone(b), key, 3)
		o := Opening{kind: Poll}
		o.key, _ = newKey()
		if _, err := o.Conn(t.Context(), b, ConnOptions{}); err == nil {
			t.Error("an answer without its key was taken")
		}
	})
}
