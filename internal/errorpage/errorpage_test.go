package errorpage

import (
	"net/http/httptest"
	"strings"
	"testing"
)

func TestWrite(t *testing.T) {
	t.Parallel()
	p := Page{Code: "busy", Status: 503, Text: "Try <again>."}
	for _, tt := range []struct{ method, accept, want string }{
		{"GET", "", `{"error":{"code":"busy","message":"Try \u003cagain\u003e."}}` + "\n"},
		{"GET", "text/html", "<h1>Try &lt;again&gt;.</h1>"},
		{"GET", "application/json, text/html;q=0.5", `"code":"busy"`},
		{"HEAD", "text/html", ""},
	} {
		r := httptest.NewRequest(tt.method, "/", nil)
		r.Host = "<script>"
		r.Header.Set("Accept", tt.accept)
		w := httptest.NewRecorder()
		p.Write(w, r)
		if body := w.Body.String(); w.Code != 503 || w.Header().Get(Header) != "busy" || !strings.Contains(body, tt.want) ||
			strings.Contains(body, "<script>") || tt.method == "HEAD" && body != "" {
			t.Errorf("%s %q: got %d %q %s, want %s", tt.method, tt.accept, w.Code, w.Header(), body, tt.want)
		}
	}
}
