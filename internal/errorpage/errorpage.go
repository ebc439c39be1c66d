// Package errorpage writes what visitors get instead of an upstream's answer: a
// page for people, or JSON for programs, with a stable code of docs/errors.md.
//
//	p := errorpage.Page{Code: "busy", Status: 503, Text: "Try again."}
//	p.Write(w, r)
package errorpage

import (
	"encoding/json"
	"html"
	"net/http"
	"strconv"
	"strings"
)

// Header carries the code.
const Header = "Adit-Error"

// A Page is one answer. Nothing of it depends on what was asked, or on what a
// far side said.
type Page struct {
	Code   string
	Status int
	Text   string // for people, one sentence
}

// Body returns the body and its content type, in JSON or HTML as an Accept field
// would have it. name is the host or ID that was asked for, for the HTML; it may
// hold anything.
func (p Page) Body(accept, name string) (body []byte, contentType string) {
	if !prefersHTML(accept) {
		type inner struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		}
		body, err := json.Marshal(struct {
			Error inner `json:"error"`
		}{inner{p.Code, p.Text}})
		if err != nil {
			panic("errorpage: marshal of strings: " + err.Error())
		}
		return append(body, '\n'), "application/json"
	}
	var b strings.Builder
	status := strconv.Itoa(p.Status)
	b.WriteString(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="robots" content="noindex"><title>` + status + " " + html.EscapeString(http.StatusText(p.Status)) + `</title>
<style>body{font:16px/1.5 sans-serif;max-width:34em;margin:15vh auto;padding:0 1em;color:#222;background:#fff}
h1{font-size:1.3em}code{color:#666}@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}}</style>
</head><body><h1>` + html.EscapeString(p.Text) + "</h1>\n")
	if name != "" {
		b.WriteString("<p>" + html.EscapeString(name) + "</p>\n")
	}
	b.WriteString("<p><code>" + status + " " + p.Code + "</code></p>\n</body></html>\n")
	return []byte(b.String()), "text/html; charset=utf-8"
}

// Fields returns the header fields that go with a body of that length.
func (p Page) Fields(contentType string, length int) [][2]string {
	return [][2]string{
		{"Content-Type", contentType},
		{"Content-Length", strconv.Itoa(length)},
		{"Cache-Control", "no-store"},
		{"X-Content-Type-Options", "nosniff"},
		{"Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'"},
		{Header, p.Code},
	}
}

// Write answers r with the page.
func (p Page) Write(w http.ResponseWriter, r *http.Request) {
	body, contentType := p.Body(r.Header.Get("Accept"), r.Host)
	for _, f := range p.Fields(contentType, len(body)) {
		w.Header().Set(f[0], f[1])
	}
	w.WriteHeader(p.Status)
	if r.Method != http.MethodHead {
		w.Write(body)
	}
}

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
