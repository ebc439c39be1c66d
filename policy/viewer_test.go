package policy

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"adit/tunnel"
)

var master = []byte("a master key, long enough")

func viewerKey(t testing.TB, master []byte, id tunnel.ID) ViewerKey {
	t.Helper()
	k, err := NewViewerKey(master, id)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// mint returns a token for the ID web of which change says more.
func mint(t testing.TB, change func(*Viewer)) string {
	t.Helper()
	v := Viewer{Expires: time.Now().Add(time.Hour)}
	if change != nil {
		change(&v)
	}
	token, err := MintViewer(viewerKey(t, master, "web"), "web", v)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func viewerGuard(t testing.TB) *Guard {
	t.Helper()
	return guard(t, Policy{ViewerKeys: []ViewerKey{viewerKey(t, master, "web")}})
}

func TestViewerToken(t *testing.T) {
	t.Parallel()
	good := mint(t, nil)
	sign := func(method jwt.SigningMethod, key any, header map[string]any, claims jwt.MapClaims) string {
		tok := jwt.NewWithClaims(method, claims)
		for k, v := range header {
			tok.Header[k] = v
		}
		s, err := tok.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	key := []byte(viewerKey(t, master, "web").key)
	soon := time.Now().Add(time.Hour).Unix()
	claims := func(change ...any) jwt.MapClaims {
		c := jwt.MapClaims{"aud": "adit-viewer:web", "exp": soon}
		for i := 0; i < len(change); i += 2 {
			if c[change[i].(string)] = change[i+1]; change[i+1] == nil {
				delete(c, change[i].(string))
			}
		}
		return c
	}
	other, err := MintViewer(viewerKey(t, master, "other"), "other", Viewer{Expires: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	// As if the key of one name were another's too.
	renamed, err := MintViewer(viewerKey(t, master, "web"), "other", Viewer{Expires: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		token string
		want  Code
	}{
		"good":               {good, ""},
		"own words":          {sign(jwt.SigningMethodHS256, key, nil, claims()), ""},
		"expired":            {mint(t, func(v *Viewer) { v.Expires = time.Now().Add(-time.Minute) }), CodeViewerExpired},
		"just expired":       {mint(t, func(v *Viewer) { v.Expires = time.Now().Add(-5 * time.Second) }), ""},
		"another's name":     {other, CodeViewer},
		"another name":       {renamed, CodeViewer},
		"expired of another": {sign(jwt.SigningMethodHS256, key, nil, claims("aud", "adit-viewer:other", "exp", 1)), CodeViewer},
		"other key":          {sign(jwt.SigningMethodHS256, []byte("another key that is long enough."), nil, claims()), CodeViewer},
		"master key":         {sign(jwt.SigningMethodHS256, master, nil, claims()), CodeViewer},
		"expired, other key": {sign(jwt.SigningMethodHS256, []byte("x"), nil, claims("exp", 1)), CodeViewer},
		"HS512":              {sign(jwt.SigningMethodHS512, key, nil, claims()), CodeViewer},
		"none":               {sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil, claims()), CodeViewer},
		"crit":               {sign(jwt.SigningMethodHS256, key, map[string]any{"crit": []string{"x"}}, claims()), CodeViewer},
		"no expiry":          {sign(jwt.SigningMethodHS256, key, nil, claims("exp", nil)), CodeViewer},
		"no audience":        {sign(jwt.SigningMethodHS256, key, nil, claims("aud", nil)), CodeViewer},
		"not yet":            {sign(jwt.SigningMethodHS256, key, nil, claims("nbf", soon-60)), CodeViewer},
		"issued later":       {sign(jwt.SigningMethodHS256, key, nil, claims("iat", soon)), CodeViewer},
		"for one use":        {mint(t, func(v *Viewer) { v.Once = true }), CodeViewer},
		"changed":            {good[:len(good)-2] + "xx", CodeViewer},
		"cut":                {good[:strings.LastIndexByte(good, '.')+1], CodeViewer},
		"empty":              {"", CodeViewer},
		"dots":               {"..", CodeViewer},
		"long":               {strings.Repeat("x", 1<<20), CodeViewer},
	} {
		for way, r := range map[string]*Request{
			"header":     request(ViewerHeader, tt.token),
			"bearer":     request("Authorization", "Bearer "+tt.token),
			"bearer too": request("Authorization", "bearer  "+tt.token),
			"cookie":     request("Cookie", "a=b; adit-viewer="+tt.token+"; c=d"),
			"cookie too": request("Cookie", "a=b", "Cookie", "__Host-adit-viewer="+tt.token),
		} {
			g := viewerGuard(t)
			for range 2 { // the second time it may be remembered
				pass, err := g.Admit(context.Background(), r)
				if got := code(t, err); got != tt.want {
					t.Errorf("%s as %s: got %q, want %q", name, way, got, tt.want)
				}
				if err == nil && (!pass.DropCookies || pass.Redirect != nil || pass.DropAuthorization != strings.HasPrefix(way, "bearer")) {
					t.Errorf("%s as %s: got %+v", name, way, pass)
				}
			}
		}
	}
}

func TestViewerTokenElsewhere(t *testing.T) {
	t.Parallel()
	g, good := viewerGuard(t), mint(t, nil)
	for name, tt := range map[string]struct {
		r    *Request
		want Code
	}{
		"nowhere":               {request(), CodeViewer},
		"header twice":          {request(ViewerHeader, good, ViewerHeader, good), CodeViewer},
		"authorization twice":   {request("Authorization", "Bearer "+good, "Authorization", "Bearer "+good), CodeViewer},
		"other cookie":          {request("Cookie", "viewer="+good), CodeViewer},
		"cookie's name in caps": {request("Cookie", "Adit-Viewer="+good), CodeViewer},
		"basic":                 {request("Authorization", "Basic "+good), CodeViewer},
		"old and new cookie":    {request("Cookie", "adit-viewer=old; adit-viewer="+good), ""},
		"many bad cookies":      {request("Cookie", strings.Repeat("adit-viewer=x; ", 8)+"adit-viewer="+good), CodeViewer},
		"bad header, good one":  {request(ViewerHeader, "bad", "Cookie", "adit-viewer="+good), ""},
		"upstream's own bearer": {request("Authorization", "Bearer theirs", "Cookie", "adit-viewer="+good), ""},
	} {
		pass, err := g.Admit(context.Background(), tt.r)
		if got := code(t, err); got != tt.want {
			t.Errorf("%s: got %q, want %q", name, got, tt.want)
		}
		if pass.DropAuthorization {
			t.Errorf("%s: what was for the upstream does not reach it", name)
		}
	}
}

// A link is good for a cookie, and its token leaves the address at once.
func TestViewerLink(t *testing.T) {
	t.Parallel()
	good := mint(t, nil)
	for name, tt := range map[string]struct {
		target   string
		method   string
		secure   bool
		path     string
		location string // empty: refused
		cookie   string // "NAME Path Secure"
	}{
		"root":             {"/?adit-viewer=T", "GET", false, "/", "/", "adit-viewer / false"},
		"https":            {"/?adit-viewer=T", "GET", true, "/", "/", "__Host-adit-viewer / true"},
		"path mode":        {"/web/x?adit-viewer=T", "GET", true, "/web/", "/web/x", "adit-viewer /web/ true"},
		"other parameters": {"/a/b?x=1&adit-viewer=T&y=%26&z", "GET", false, "/", "/a/b?x=1&y=%26&z", "adit-viewer / false"},
		"twice":            {"/?adit-viewer=T&adit-viewer=other", "GET", false, "/", "/", "adit-viewer / false"},
		"head":             {"/?adit-viewer=T", "HEAD", false, "/", "/", "adit-viewer / false"},
		"other host":       {"//evil.example/?adit-viewer=T&a=b", "GET", false, "/", "?a=b", "adit-viewer / false"},
		"other host too":   {`/\evil.example/?adit-viewer=T`, "GET", false, "/", "?", "adit-viewer / false"},
		"bad first":        {"/?adit-viewer=bad&adit-viewer=T", "GET", false, "/", "", ""},
		"post":             {"/?adit-viewer=T", "POST", false, "/", "", ""},
		"name encoded":     {"/?adit%2Dviewer=T", "GET", false, "/", "", ""},
		"longer name":      {"/?xadit-viewer=T", "GET", false, "/", "", ""},
		"in the path":      {"/adit-viewer=T", "GET", false, "/", "", ""},
		"bad":              {"/?adit-viewer=bad", "GET", false, "/", "", ""},
		"empty":            {"/?adit-viewer", "GET", false, "/", "", ""},
	} {
		r := request()
		r.Target = strings.ReplaceAll(tt.target, "T", good)
		r.Method, r.Secure, r.Path = tt.method, tt.secure, tt.path
		pass, err := viewerGuard(t).Admit(context.Background(), r)
		if tt.location == "" {
			if code(t, err) != CodeViewer {
				t.Errorf("%s: got %+v, %v; want %s", name, pass.Redirect, err, CodeViewer)
			}
			continue
		}
		if err != nil || pass.Redirect == nil {
			t.Errorf("%s: got %+v, %v; want a redirect", name, pass.Redirect, err)
			continue
		}
		if pass.Redirect.Location != tt.location || strings.Contains(pass.Redirect.Location, good) {
			t.Errorf("%s: to %q, want %q", name, pass.Redirect.Location, tt.location)
		}
		base := &url.URL{Scheme: "https", Host: "web.example.com", Path: "/x"}
		if to, err := base.Parse(pass.Redirect.Location); err != nil || to.Host != base.Host {
			t.Errorf("%s: %q leads to %v, %v", name, pass.Redirect.Location, to, err)
		}
		c, err := http.ParseSetCookie(pass.Redirect.Cookie)
		if err != nil {
			t.Fatalf("%s: cookie %q: %v", name, pass.Redirect.Cookie, err)
		}
		got := c.Name + " " + c.Path + " " + map[bool]string{true: "true", false: "false"}[c.Secure]
		if got != tt.cookie || c.Value != good || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Domain != "" || c.MaxAge < 3500 || c.MaxAge > 3600 {
			t.Errorf("%s: cookie %+v, want %s", name, c, tt.cookie)
		}
		r = request("Cookie", c.Name+"="+c.Value)
		if got := admit(t, viewerGuard(t), r); got != "" {
			t.Errorf("%s: its cookie is refused: %q", name, got)
		}
	}
}

// Who is in already loses the token from its address all the same, and a
// request with a body that cannot be sent elsewhere is refused.
func TestViewerLinkOfVisitorWhoIsIn(t *testing.T) {
	t.Parallel()
	good := mint(t, nil)
	for _, tt := range []struct {
		method, token string
		redirect      bool
		want          Code
	}{
		{"GET", good, true, ""},
		{"GET", "bad", true, ""},
		{"POST", good, false, CodeViewer},
	} {
		r := request("Cookie", "adit-viewer="+good)
		r.Method, r.Target = tt.method, "/x?adit-viewer="+tt.token
		pass, err := viewerGuard(t).Admit(context.Background(), r)
		if code(t, err) != tt.want || (pass.Redirect != nil) != tt.redirect {
			t.Errorf("%s with %.5s…: got %+v, %v", tt.method, tt.token, pass.Redirect, err)
		}
	}
}

func TestViewerLinkForOneUse(t *testing.T) {
	t.Parallel()
	g := viewerGuard(t)
	link := mint(t, func(v *Viewer) { v.Once, v.Name = true, "carol" })
	open := func(method string, fields ...string) (*Redirect, Code) {
		r := request(fields...)
		r.Method, r.Target = method, "/?adit-viewer="+link
		pass, err := g.Admit(context.Background(), r)
		return pass.Redirect, code(t, err)
	}
	if _, got := open("HEAD"); got != CodeViewer {
		t.Errorf("HEAD: %q, want it refused and the link left good", got)
	}
	to, got := open("GET")
	if got != "" {
		t.Fatalf("first time: %q", got)
	}
	if strings.Contains(to.Cookie, link) {
		t.Error("the cookie holds the token of the link")
	}
	pair, _, _ := strings.Cut(to.Cookie, ";")
	if got := admit(t, g, request("Cookie", pair)); got != "" {
		t.Errorf("its cookie: %q", got)
	}
	if _, got := open("GET"); got != CodeViewer {
		t.Errorf("second time: %q, want %q", got, CodeViewer)
	}
	if to, got := open("GET", "Cookie", pair); got != "" || to == nil {
		t.Errorf("second time, by who has used it: %q, want a redirect", got)
	}
}

// What is remembered of links for one use is bounded, and rather than forget
// one no more are accepted.
func TestViewerLinksForOneUseAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := viewerGuard(t).viewers
		for i := range maxUsed + 1 {
			claims := &viewerClaims{RegisteredClaims: jwt.RegisteredClaims{ID: string(rune(i)), ExpiresAt: jwt.NewNumericDate(time.Now().Add(time.Minute))}}
			if got, want := c.use(claims), i < maxUsed && i != 0xd801; got != want {
				t.Fatalf("link %d: %v, want %v", i, got, want)
			}
		}
		time.Sleep(2 * time.Minute)
		claims := &viewerClaims{RegisteredClaims: jwt.RegisteredClaims{ID: "new", ExpiresAt: jwt.NewNumericDate(time.Now().Add(time.Minute))}}
		if !c.use(claims) {
			t.Error("after all have expired none is accepted")
		}
	})
}

// A token that was found good is not good beyond its time.
func TestViewerTokenExpires(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := viewerGuard(t)
		r := request(ViewerHeader, mint(t, func(v *Viewer) { v.Expires = time.Now().Add(time.Minute) }))
		for range 8 {
			if got := admit(t, g, r); got != "" {
				t.Fatalf("in time: %q", got)
			}
			time.Sleep(10 * time.Second)
		}
		time.Sleep(30 * time.Second)
		if got := admit(t, g, r); got != CodeViewerExpired {
			t.Errorf("after its time: %q, want %q", got, CodeViewerExpired)
		}
	})
}

func TestViewerKeyRotation(t *testing.T) {
	t.Parallel()
	newKey := viewerKey(t, []byte("the next master key"), "web")
	g := guard(t, Policy{ViewerKeys: []ViewerKey{newKey, viewerKey(t, master, "web")}})
	fresh, err := MintViewer(newKey, "web", Viewer{Expires: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{"old": mint(t, nil), "new": fresh} {
		if got := admit(t, g, request(ViewerHeader, token)); got != "" {
			t.Errorf("token of the %s key: %q", name, got)
		}
	}
}

func TestMintViewerRefuses(t *testing.T) {
	t.Parallel()
	key := viewerKey(t, master, "web")
	for name, tt := range map[string]struct {
		key ViewerKey
		v   Viewer
	}{
		"no key":       {ViewerKey{}, Viewer{Expires: time.Now()}},
		"no expiry":    {key, Viewer{}},
		"control":      {key, Viewer{Expires: time.Now(), Name: "a\nb"}},
		"long name":    {key, Viewer{Expires: time.Now(), Name: strings.Repeat("x", 256)}},
		"not readable": {key, Viewer{Expires: time.Now(), Name: "\xff"}},
	} {
		if token, err := MintViewer(tt.key, "web", tt.v); err == nil {
			t.Errorf("%s: got %s, want an error", name, token)
		}
	}
	if _, err := NewViewerKey([]byte("short"), "web"); err == nil {
		t.Error("a key of 5 bytes: want an error")
	}
}

func TestStripCookies(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                               "",
		"a=b":                            "a=b",
		"a=b; c=d":                       "a=b; c=d",
		"adit-viewer=x":                  "",
		"a=b; adit-viewer=x; c=d":        "a=b; c=d",
		"adit-viewer=x; a=b":             "a=b",
		"a=b;adit-viewer=x":              "a=b",
		"__Host-adit-viewer=x; a=b":      "a=b",
		"adit-viewer=x; adit-viewer=y":   "",
		"adit-viewer":                    "",
		"a=adit-viewer=x":                "a=adit-viewer=x",
		"adit-viewerx=1; xadit-viewer=2": "adit-viewerx=1; xadit-viewer=2",
	} {
		if got := string(StripCookies([]byte("Cookie: "), []byte(in))); got != "Cookie: "+want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func FuzzViewerRequest(f *testing.F) {
	good := mint(f, nil)
	f.Add("/?adit-viewer="+good, "a=b; adit-viewer="+good, "Bearer "+good)
	f.Add("//host/?x=1&adit-viewer="+good, "", "")
	f.Add("/?adit-viewer=", "adit-viewer=..;;=", "bearer")
	g := viewerGuard(f)
	f.Fuzz(func(t *testing.T, target, cookie, authorization string) {
		if !strings.HasPrefix(target, "/") || strings.ContainsAny(target, "\r\n \t#") {
			return // not what http1 lets through
		}
		r := request("Cookie", cookie, "Authorization", authorization)
		r.Target = target
		pass, err := g.Admit(context.Background(), r)
		if err != nil {
			return
		}
		// Nobody gets in without a token that was made here.
		if !strings.Contains(target+" "+cookie+" "+authorization, strings.SplitN(good, ".", 2)[0]) {
			t.Fatalf("%q, %q, %q was let in", target, cookie, authorization)
		}
		if to := pass.Redirect; to != nil {
			u, err := (&url.URL{Scheme: "https", Host: "web.example.com", Path: "/x"}).Parse(to.Location)
			if err == nil && u.Host != "web.example.com" {
				t.Fatalf("%q redirects to %q", target, to.Location)
			}
			if strings.ContainsAny(to.Location+to.Cookie, "\r\n") {
				t.Fatalf("%q breaks out of its field", to)
			}
		}
		if rest := string(StripCookies(nil, []byte(cookie))); strings.Contains("; "+rest, "; adit-viewer=") {
			t.Fatalf("%q leaves %q", cookie, rest)
		}
	})
}

func BenchmarkViewerToken(b *testing.B) {
	g := viewerGuard(b)
	r := request("Cookie", "adit-viewer="+mint(b, nil))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := g.Admit(context.Background(), r); err != nil {
			b.Fatal(err)
		}
	}
}
