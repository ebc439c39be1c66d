package ingress

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestPathMode(t *testing.T) {
	t.Parallel()
	addr := startSite(t, func(w http.ResponseWriter, r *http.Request) {
		if l := r.URL.Query().Get("to"); l != "" {
			w.Header().Set("Location", l)
			w.WriteHeader(302)
		}
		for _, c := range r.URL.Query()["cookie"] {
			w.Header().Add("Set-Cookie", c)
		}
		io.WriteString(w, r.RequestURI+" "+r.Header.Get("X-Forwarded-Prefix"))
	}, func(o *HTTPOptions) { o.PathMode, o.Domain = true, "example.com" })
	c := dial(t, addr)
	for _, tt := range []struct {
		host, target string
		status       int
		body         string // of 200
		location     string
	}{
		{"example.com", "/web/", 200, "/ /web", ""},
		{"example.com", "/web/a%2fb/../c?d=/e", 200, "/a%2fb/../c?d=/e /web", ""},
		{"example.com", "/web//evil", 200, "//evil /web", ""},
		{"127.0.0.1:8080", "/web/x", 200, "/x /web", ""},
		{"[::1]:8080", "/web/x", 200, "/x /web", ""},
		{"tunnel.internal", "/web/x", 200, "/x /web", ""},
		{"web", "/web/x", 200, "/web/x ", ""}, // a hostname that is routed wins
		{"EXAMPLE.com.", "/web/x", 200, "/x /web", ""},
		{"example.com", "/web", 308, "", "/web/"},
		{"example.com", "/web?a=b", 308, "", "/web/?a=b"},
		{"other.example.com", "/web/x", 404, "", ""}, // an origin of its own
		{"example.com", "/", 404, "", ""},
		{"example.com", "/favicon.ico", 404, "", ""},
		{"example.com", "//web/x", 404, "", ""},
		{"example.com", "/./web/x", 404, "", ""},
		{"example.com", "/../web/x", 404, "", ""},
		{"example.com", "/%77eb/x", 404, "", ""},
		{"example.com", "/web%2fx", 404, "", ""},
		{"example.com", "/%2e%2e/x", 404, "", ""},
		{"example.com", "/web;a/x", 404, "", ""},
		{"example.com", "/_adit/x", 404, "", ""},

		{"example.com", "/web/?to=/login", 302, "", "/web/login"},
		{"example.com", "/web/?to=/web/login", 302, "", "/web/login"},
		{"example.com", "/web/?to=/website", 302, "", "/web/website"},
		{"example.com", "/web/?to=login", 302, "", "login"},
		{"example.com", "/web/?to=http://example.com/a", 302, "", "http://example.com/web/a"},
		{"example.com", "/web/?to=https://EXAMPLE.com", 302, "", "https://EXAMPLE.com/web/"},
		{"example.com", "/web/?to=http://example.com?q", 302, "", "http://example.com/web/?q"},
		{"example.com", "/web/?to=//example.com/a", 302, "", "//example.com/web/a"},
		{"example.com", "/web/?to=//other/a", 302, "", "//other/a"},
		{"example.com", "/web/?to=https://other/a", 302, "", "https://other/a"},
	} {
		c.send("GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", tt.target, tt.host)
		resp, body := c.response("GET")
		if resp.StatusCode != tt.status || tt.status == 200 && body != tt.body || resp.Header.Get("Location") != tt.location {
			t.Errorf("%s %s: %d %q %q, want %d %q %q", tt.host, tt.target, resp.StatusCode, body, resp.Header.Get("Location"), tt.status, tt.body, tt.location)
		}
	}
}

func TestPathModeOff(t *testing.T) {
	t.Parallel()
	addr := startSite(t, func(w http.ResponseWriter, r *http.Request) {})
	c := dial(t, addr)
	c.send("GET /web/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
	if resp, _ := c.response("GET"); resp.StatusCode != 404 {
		t.Errorf("got %d, want 404", resp.StatusCode)
	}
}

func TestCookiesStayUnderPrefix(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"a=b":                    "a=b",
		"a=b; Path=/":            "a=b; Path=/web/",
		"a=b; path=/x; HttpOnly": "a=b; Path=/web/x; HttpOnly",
		"a=b; Path=/web/x":       "a=b; Path=/web/x",
		"a=b; Path=/web":         "a=b; Path=/web",
		"a=b; Path=/website":     "a=b; Path=/web/website",
		"a=b; Domain=.example.com; Path=/;Secure": "a=b; Path=/web/;Secure",
		"a=b; DOMAIN = example.com":               "a=b",
		"a=b; Path=":                              "a=b",
		"a=b; Path=relative":                      "a=b",
		"a=b; Path=/; Path=/y":                    "a=b; Path=/web/; Path=/web/y",
		"path=/; Max-Age=1":                       "path=/; Max-Age=1",
	} {
		if got := string(appendCookie(nil, []byte(in), "/web")); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
	addr := startSite(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Set-Cookie", "a=1; Path=/")
		w.Header().Add("Set-Cookie", "b=2; Domain=x")
	}, func(o *HTTPOptions) { o.PathMode = true })
	c := dial(t, addr)
	c.send("GET /web/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
	resp, _ := c.response("GET")
	if got := fmt.Sprint(resp.Header["Set-Cookie"]); got != "[a=1; Path=/web/ b=2]" {
		t.Errorf("got %s", got)
	}
}

func FuzzPathMode(f *testing.F) {
	f.Add("a=b; Path=/x; Domain=y", "http://h/a", "/web/x")
	f.Add("a; path = /;;domain", "//h?x", "/%2e")
	f.Fuzz(func(t *testing.T, cookie, location, target string) {
		got := string(appendCookie(nil, []byte(cookie), "/web"))
		_, attrs, _ := strings.Cut(got, ";")
		for attr := range strings.SplitSeq(attrs, ";") {
			name, value, _ := strings.Cut(attr, "=")
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "domain":
				t.Errorf("%q became %q, with a Domain", cookie, got)
			case "path":
				if value != "/web" && !strings.HasPrefix(value, "/web/") && !strings.HasPrefix(value, "/web?") && !strings.HasPrefix(value, "/web#") {
					t.Errorf("%q became %q, outside of the prefix", cookie, got)
				}
			}
		}
		appendLocation(nil, []byte(location), []byte("h"), "/web")
		if id, ok := pathID([]byte(target)); ok && strings.ContainsAny(string(id), "%/?#;\\ ") {
			t.Errorf("%q has the ID %q", target, id)
		}
	})
}
