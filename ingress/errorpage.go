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
	if p.challenge != "" {
		fields = append(fields, [2]string{"WWW-Authenticate", p.challenge})
	}
	if p.status == http.StatusMethodNotAllowed {
		fields = append(fields, [2]string{"Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"})
	}
	return fields
}

// reason is the reason phrase of the status.
func (p *problem) reason() string { return http.StatusText(p.status) }

// writeProblem answers a request of package net/http.
func writeProblem(w http.ResponseWriter, r *http.Request, p *problem, name string) {
	body, contentType := p.page(r.Header.Get("Accept"), name)
	for _, f := range p.fields(contentType, len(body)) {
		w.Header().Set(f[0], f[1])
	}
	w.WriteHeader(p.status)
	if r.Method != http.MethodHead {
		w.Write(body)
	}
}
