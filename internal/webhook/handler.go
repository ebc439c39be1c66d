package webhook

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"adit/internal/errorpage"
)

const (
	maxMemory = 128 << 20        // bytes of bodies at a time, of one verifier
	readTime  = 60 * time.Second // for a body
)

var (
	errBusy     = errors.New("too many requests at once")
	errTooLarge = errors.New("body is too large")
)

// memory is what bodies take at a time.
type memory struct {
	mu    sync.Mutex // guards taken
	taken int64
}

func (m *memory) take(n int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.taken+n > maxMemory {
		return false
	}
	m.taken += n
	return true
}

func (m *memory) free(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.taken -= n
}

// Handler lets requests through to next whose signature is good, with the very
// body that was checked. The others it answers, and tells refused of.
func (v *Verifier) Handler(next http.Handler, refused func(*http.Request, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, free, err := v.read(w, r)
		defer free()
		if err != nil && r.ProtoMajor == 1 {
			w.Header().Set("Connection", "close") // the rest of the body is not wanted
		}
		if err == nil {
			err = v.Verify(r.Header, body, time.Now())
		}
		if err != nil {
			refused(r, err)
			if errors.Is(err, errBusy) {
				w.Header().Set("Retry-After", "1")
			}
			explain(err).Write(w, r)
			return
		}
		checked := r.Clone(r.Context())
		checked.Body = io.NopCloser(bytes.NewReader(body))
		checked.ContentLength = int64(len(body))
		checked.TransferEncoding, checked.Trailer = nil, nil
		checked.Header.Del("Expect")
		if len(body) == 0 {
			checked.Body = http.NoBody
		}
		next.ServeHTTP(w, checked)
	})
}

// read reads the body into memory, which free gives back.
func (v *Verifier) read(w http.ResponseWriter, r *http.Request) (body []byte, free func(), err error) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, func() {}, nil
	}
	// A request without signature does not take memory: most are that.
	if _, err := v.scheme.find(r.Header); err != nil {
		return nil, func() {}, err
	}
	if r.ContentLength > v.maxBody {
		return nil, func() {}, errTooLarge
	}
	taken := int64(0)
	free = func() { v.memory.free(taken) }
	grow := func(n int64) bool {
		if !v.memory.take(n) {
			return false
		}
		taken += n
		return true
	}
	size := r.ContentLength
	if size < 0 {
		size = 64 << 10
	}
	if !grow(size + bytes.MinRead) {
		return nil, free, errBusy
	}
	rc := http.NewResponseController(w)
	rc.SetReadDeadline(time.Now().Add(readTime)) // where it can be set: a slow sender holds memory
	defer rc.SetReadDeadline(time.Time{})
	buf := bytes.NewBuffer(make([]byte, 0, size+bytes.MinRead))
	in := io.LimitReader(r.Body, v.maxBody+1)
	for {
		if buf.Available() < bytes.MinRead {
			if !grow(int64(buf.Cap())) { // it is about to double
				return nil, free, errBusy
			}
			buf.Grow(buf.Cap())
		}
		space := buf.AvailableBuffer()
		n, err := in.Read(space[:cap(space)])
		buf.Write(space[:n])
		switch {
		case int64(buf.Len()) > v.maxBody:
			return nil, free, errTooLarge
		case err == io.EOF:
			return buf.Bytes(), free, nil
		case err != nil:
			return nil, free, err
		}
	}
}

// explain turns an error into what the sender sees.
func explain(err error) errorpage.Page {
	e, signature := errors.AsType[*Error](err)
	switch {
	case signature && e.Code == Missing:
		return errorpage.Page{Code: string(Missing), Status: http.StatusUnauthorized, Text: "This takes signed webhooks only."}
	case signature && e.Code == Expired:
		return errorpage.Page{Code: string(Expired), Status: http.StatusForbidden, Text: "The webhook was signed too long ago."}
	case signature && e.Code == Replayed:
		return errorpage.Page{Code: string(Replayed), Status: http.StatusForbidden, Text: "The webhook has come before."}
	case signature:
		return errorpage.Page{Code: string(Invalid), Status: http.StatusForbidden, Text: "The signature of the webhook is wrong."}
	case errors.Is(err, errTooLarge):
		return errorpage.Page{Code: "body-too-large", Status: http.StatusRequestEntityTooLarge, Text: "The body of the request is longer than is taken here."}
	case errors.Is(err, errBusy):
		return errorpage.Page{Code: "busy", Status: http.StatusServiceUnavailable, Text: "The agent behind this name is busy."}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errorpage.Page{Code: "request-timeout", Status: http.StatusRequestTimeout, Text: "The body of the request did not arrive in time."}
	}
	return errorpage.Page{Code: "bad-request", Status: http.StatusBadRequest, Text: "The request is malformed."}
}
