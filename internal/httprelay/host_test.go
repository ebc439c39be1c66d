package httprelay

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"
)

func TestHostRequest(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		own      origin
		host     string
		in, want http.Header
	}{
		{
			"all of them", newOrigin("http", "localhost:3000"), "web.example.com",
			http.Header{
				"Origin": {"https://web.example.com"}, "Referer": {"https://web.example.com/a?b=c#d"}, "Destination": {"http://web.example.com/e"},
				"X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"web.example.com"}, "X-Forwarded-For": {"192.0.2.1"},
				"Forwarded": {`for="[2001:db8::1]";proto=https;host="web.example.com:443", for=192.0.2.1;host=a`},
			},
			http.Header{
				"Origin": {"http://localhost:3000"}, "Referer": {"http://localhost:3000/a?b=c#d"}, "Destination": {"http://localhost:3000/e"},
				"X-Forwarded-For": {"192.0.2.1"}, "Forwarded": {`for="[2001:db8::1]", for=192.0.2.1`},
			},
		}, {
			"others' origins", newOrigin("http", "localhost:3000"), "web.example.com",
			http.Header{"Origin": {"https://evil.example"}, "Referer": {"https://web.example.com.evil.example/"}, "Destination": {"https://web.example.com@evil.example/"}},
			http.Header{"Origin": {"https://evil.example"}, "Referer": {"https://web.example.com.evil.example/"}, "Destination": {"https://web.example.com@evil.example/"}},
		}, {
			"another port is another origin", newOrigin("http", "localhost:3000"), "web.example.com:8443",
			http.Header{"Origin": {"https://web.example.com"}, "Referer": {"https://web.example.com:8443/x"}},
			http.Header{"Origin": {"https://web.example.com"}, "Referer": {"http://localhost:3000/x"}},
		}, {
			"default ports and case", newOrigin("https", "app.internal:443"), "Web.Example.com:443",
			http.Header{"Origin": {"https://web.example.com"}, "Referer": {"HTTPS://WEB.EXAMPLE.COM/x"}, "X-Forwarded-Proto": {"https"}},
			http.Header{"Origin": {"https://app.internal"}, "Referer": {"https://app.internal/x"}},
		}, {
			"path mode", newOrigin("http", "localhost:3000"), "example.com",
			http.Header{"Origin": {"https://example.com"}, "Referer": {"https://example.com/web/a"}, "X-Forwarded-Prefix": {"/web"}},
			http.Header{"Origin": {"http://localhost:3000"}, "Referer": {"http://localhost:3000/a"}, "X-Forwarded-Prefix": {"/web"}},
		}, {
			"path mode, another tunnel's page", newOrigin("http", "localhost:3000"), "example.com",
			http.Header{"Referer": {"https://example.com/website/a"}, "X-Forwarded-Prefix": {"/web"}},
			http.Header{"Referer": {"http://localhost:3000/website/a"}, "X-Forwarded-Prefix": {"/web"}},
		}, {
			"what is none", newOrigin("http", "localhost:3000"), "web.example.com",
			http.Header{"Origin": {"null"}, "Referer": {"about:blank"}, "Destination": {"/path"}},
			http.Header{"Origin": {"null"}, "Referer": {"about:blank"}, "Destination": {"/path"}},
		},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Host, r.Header = tt.host, tt.in
		public := publicOrigin(r)
		(hostRewriter{tt.own}).request(r, public)
		if r.Host != tt.own.host || !reflect.DeepEqual(r.Header, tt.want) {
			t.Errorf("%s: got %s %q, want %s %q", tt.name, r.Host, r.Header, tt.own.host, tt.want)
		}
	}
}

func TestHostResponse(t *testing.T) {
	t.Parallel()
	public := newOrigin("https", "web.example.com")
	for _, tt := range []struct {
		name, field, in, want string
		public                origin
		pathMode              bool
	}{
		{"absolute", "Location", "http://localhost:3000/a?b#c", "https://web.example.com/a?b#c", public, false},
		{"absolute, https", "Location", "https://localhost:3000/a", "https://web.example.com/a", public, false},
		{"host alone", "Location", "http://localhost:3000", "https://web.example.com", public, false},
		{"case", "Location", "HTTP://LocalHost:3000/a", "https://web.example.com/a", public, false},
		{"without scheme", "Location", "//localhost:3000/a", "//web.example.com/a", public, false},
		{"path", "Location", "/a", "/a", public, false},
		{"relative", "Location", "a/b", "a/b", public, false},
		{"other host", "Location", "https://other.example/a", "https://other.example/a", public, false},
		{"other port", "Location", "http://localhost:4000/a", "http://localhost:4000/a", public, false},
		{"a user", "Location", "http://localhost:3000@evil.example/", "http://localhost:3000@evil.example/", public, false},
		{"backslash", "Location", `http://localhost:3000\@evil.example/`, `https://web.example.com\@evil.example/`, public, false},
		{"path mode", "Location", "http://localhost:3000/a", "/a", newOrigin("https", "example.com"), true},
		{"path mode, host alone", "Location", "http://localhost:3000", "/", newOrigin("https", "example.com"), true},
		{"path mode, query", "Location", "http://localhost:3000?a", "/?a", newOrigin("https", "example.com"), true},
		{"path mode, two slashes", "Location", "http://localhost:3000//evil.example/", "https://example.com//evil.example/", newOrigin("https", "example.com"), true},
		{"content location", "Content-Location", "http://localhost:3000/a", "https://web.example.com/a", public, false},
		{"cross origin", "Access-Control-Allow-Origin", "http://localhost:3000", "https://web.example.com", public, false},
		{"cross origin in path mode", "Access-Control-Allow-Origin", "http://localhost:3000", "https://example.com", newOrigin("https", "example.com"), true},
		{"any origin", "Access-Control-Allow-Origin", "*", "*", public, false},
		{"refresh", "Refresh", "5; URL=http://localhost:3000/a", "5; URL=https://web.example.com/a", public, false},
		{"refresh without URL", "Refresh", "5", "5", public, false},
		{"link", "Link", `<http://localhost:3000/2>; rel=next, </3>; rel=last, <https://other.example/>`, `<https://web.example.com/2>; rel=next, </3>; rel=last, <https://other.example/>`, public, false},
		{"link that is not closed", "Link", "<http://localhost:3000/2", "<http://localhost:3000/2", public, false},
		{"cookie", "Set-Cookie", "a=b; Path=/; HttpOnly", "a=b; Path=/; HttpOnly", public, false},
		{"cookie of the name", "Set-Cookie", "a=b; Domain=localhost; Path=/", "a=b; Domain=web.example.com; Path=/", public, false},
		{"cookie with a dot", "Set-Cookie", "a=b;domain=.LOCALHOST;Secure", "a=b; Domain=web.example.com;Secure", public, false},
		{"cookie of others", "Set-Cookie", "a=b; Domain=other.example", "a=b; Domain=other.example", public, false},
		{"cookie at localhost", "Set-Cookie", "a=b; Domain=localhost; Secure", "a=b; Secure", newOrigin("http", "localhost:8080"), false},
		{"cookie at an address", "Set-Cookie", "a=b; Domain=localhost", "a=b", newOrigin("http", "192.0.2.1:8080"), false},
		{"cookie at an IPv6 address", "Set-Cookie", "a=b; Domain=localhost", "a=b", newOrigin("http", "[2001:db8::1]:8080"), false},
		{"cookie whose value looks like it", "Set-Cookie", "domain=localhost; x", "domain=localhost; x", public, false},
	} {
		h := http.Header{tt.field: {tt.in}}
		(hostRewriter{newOrigin("http", "localhost:3000")}).response(h, tt.public, tt.pathMode)
		if got := h.Get(tt.field); got != tt.want {
			t.Errorf("%s: %q became %q, want %q", tt.name, tt.in, got, tt.want)
		}
	}
	h := http.Header{"Set-Cookie": {"a=b; Domain=internal"}}
	(hostRewriter{newOrigin("https", "app.internal")}).response(h, public, false)
	if got := h.Get("Set-Cookie"); got != "a=b; Domain=web.example.com" {
		t.Errorf("cookie of the parent domain: %q", got)
	}
}

// FuzzHost holds the rewriting to its promise: nobody is led to another host by
// it, and no field breaks out of its line.
func FuzzHost(f *testing.F) {
	f.Add("http://localhost:3000/a", "a=b; Domain=localhost", `for=1;host=x`, true)
	f.Add(`//localhost:3000\@evil/`, "a", `"`, false)
	own, public := newOrigin("http", "localhost:3000"), newOrigin("https", "web.example.com")
	f.Fuzz(func(t *testing.T, location, cookie, forwarded string, pathMode bool) {
		if strings.ContainsAny(location+cookie+forwarded, "\r\n") {
			return
		}
		before, err := url.Parse(location)
		h := http.Header{"Location": {location}, "Set-Cookie": {cookie}, "Link": {location}, "Refresh": {location}}
		(hostRewriter{own}).response(h, public, pathMode)
		after, aerr := url.Parse(h.Get("Location"))
		if err == nil && aerr == nil && after.Host != before.Host && after.Host != public.host && after.Host != "" {
			t.Fatalf("%q leads to %q", location, h.Get("Location"))
		}
		if err == nil && before.Host == "" && aerr == nil && after.Host != "" {
			t.Fatalf("%q leads to another host: %q", location, h.Get("Location"))
		}
		for name, values := range h {
			if strings.ContainsAny(strings.Join(values, ""), "\r\n") {
				t.Fatalf("%s: %q", name, values)
			}
		}
		for pair := range strings.SplitSeq(strings.ReplaceAll(onlyFor(forwarded), ",", ";"), ";") {
			if !strings.ContainsRune(forwarded, '"') && strings.HasPrefix(strings.ToLower(strings.TrimSpace(pair)), "host=") {
				t.Fatalf("%q still has a host: %q", forwarded, onlyFor(forwarded))
			}
		}
	})
}
