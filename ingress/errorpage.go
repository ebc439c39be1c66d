package ingress

import (
	"encoding/json"
	"html"
	"net/http"
	"strconv"
	"strings"
)

// errorHeader carries a problem's code.
const errorHeader = "Adit-Error"

// page returns the body and the content type of a problem, in JSON or HTML as
// the visitor's Accept field would have it. name is the host or ID that was
// asked for; it may hold anything.
func (p *problem) page(accept, name string) (body []byte, contentType string) {
	if !prefersHTML(accept) {
		type inner struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		}
		body, err := json.Marshal(struct {
			Error inner `json:"error"`
		}{inner{p.code, p.text}})
		if err != nil {
			panic("ingress: marshal of strings: " + err.Error())
		}
		return append(body, '\n'), "application/json"
	}
	var b strings.Builder
	status := strconv.Itoa(p.status)
	b.WriteString(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="robots" content="noindex"><title>` + status + " " + html.EscapeString(http.StatusText(p.status)) + `</title>
<style>body{font:16px/1.5 sans-serif;max-width:34em;margin:15vh auto;padding:0 1em;color:#222;background:#fff}
h1{font-size:1.3em}code{color:#666}@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}}</style>
</head><body><h1>` + html.EscapeString(p.text) + "</h1>\n")
	if name != "" {
		b.WriteString("<p>" + html.EscapeString(name) + "</p>\n")
	}
	b.WriteString("<p><code>" + status + " " + p.code + "</code></p>\n</body></html>\n")
	return []byte(b.String()), "text/html; charset=utf-8"
}

// fields returns the header fields that go with the page.
func (p *problem) fields(contentType string, length int) [][2]string {
	fields := [][2]string{
		{"Content-Type", contentType},
		{"Content-Length", strconv.Itoa(length)},
		{"Cache-Control", "no-store"},
		{"X-Content-Type-Options", "nosniff"},
		{"Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'"},
		{errorHeader, p.code},
	}
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

// prefersHTML reports whether an Accept field names text/html, and JSON no
// better. Browsers always name it; what does not is a program.
func prefersHTML(accept string) bool {
	var asHTML, asJSON float64
	for element := range strings.SplitSeq(accept, ",") {
		kind, params, _ := strings.Cut(element, ";")
		q := 1.0
		for param := range strings.SplitSeq(params, ";") {
			if name, value, _ := strings.Cut(param, "="); strings.EqualFold(strings.TrimSpace(name), "q") {
				q, _ = strconv.ParseFloat(strings.TrimSpace(value), 64)
			}
		}
		switch kind = strings.ToLower(strings.TrimSpace(kind)); {
		case kind == "text/html", kind == "application/xhtml+xml":
			asHTML = max(asHTML, q)
		case kind == "application/json", strings.HasSuffix(kind, "+json"):
			asJSON = max(asJSON, q)
		}
	}
	return asHTML > 0 && asHTML >= asJSON
}

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
