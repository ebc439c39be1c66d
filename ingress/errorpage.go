package ingress

import (
	"net/http"
	"strconv"

	"adit/internal/errorpage"
)

// page returns the body and the content type of a problem, in JSON or HTML as
// the visitor's Accept field would have it. name is the host or ID that was
// asked for; it may hold anything.
func (p *problem) page(accept, name string) (body []byte, contentType string) {
	return p.errorPage().Body(accept, name)
}

func (p *problem) errorPage() errorpage.Page {
	return errorpage.Page{Code: p.code, Status: p.status, Text: p.text}
}

// fields returns the header fields that go with the page.
func (p *problem) fields(contentType string, length int) [][2]string {
	fields := p.errorPage().Fields(contentType, length)
	if p.retry > 0 {
		fields = append(fields, [2]string{"Retry-After", strconv.Itoa(p.retry)})
	}
	return append(fields, p.statusFields()...)
}

// statusFields returns those that the status demands, however the page looks.
func (p *problem) statusFields() (fields [][2]string) {
	if p.challenge != "" {
		fields = append(fields, [2]string{"WWW-Authenticate", p.challenge})
	}
	if p.status == http.StatusMethodNotAllowed {
		fields = append(fields, [2]string{"Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"})
	}
	return fields
}

// writeProblem answers a request of package net/http.
func (h *HTTP) writeProblem(w http.ResponseWriter, r *http.Request, p *problem, name string) {
	t := h.sayOf(p, r.Header.Get("Accept"), name)
	for _, f := range t.fields {
		w.Header().Set(f[0], f[1])
	}
	w.WriteHeader(t.status)
	if r.Method != http.MethodHead {
		w.Write(t.body)
	}
}
