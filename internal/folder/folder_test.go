package folder_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"adit/internal/folder"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tree makes a folder beside a secret that nobody may see. A name with a slash
// at its end is a folder.
func tree(t *testing.T, files map[string]string) (dir string) {
	t.Helper()
	top := t.TempDir()
	dir = filepath.Join(top, "public")
	write(t, filepath.Join(top, "secret.txt"), "SECRET")
	write(t, filepath.Join(top, "public-too", "secret.txt"), "SECRET")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		path := filepath.Join(dir, name)
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(path, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		write(t, path, content)
	}
	return dir
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func serve(t *testing.T, dir string, opts folder.Options) (addr string) {
	t.Helper()
	h, err := folder.New(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// ask makes a request whose target is sent as it is.
func ask(t *testing.T, addr, method, target string, fields ...string) (*http.Response, string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n", method, target)
	for _, f := range fields {
		fmt.Fprintf(c, "%s\r\n", f)
	}
	io.WriteString(c, "\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	return resp, string(b)
}

func TestFiles(t *testing.T) {
	t.Parallel()
	addr := serve(t, tree(t, map[string]string{
		"index.html":             "<h1>home</h1>",
		"style.css":              "body {}",
		"app.js":                 "let x",
		"no extension":           "plain words",
		"100%.txt":               "percent",
		"a:b.txt":                "colon",
		"sub/index.html":         "sub",
		"sub/deep/file.txt":      "deep",
		"empty/":                 "",
		"odd/index.html/":        "",
		".hidden":                "SECRET",
		".git/config":            "SECRET",
		"sub/.env":               "SECRET",
		".well-known/a.txt":      "known",
		".well-known/.b.txt":     "SECRET",
		"sub/.well-known/no.txt": "SECRET",
		"..almost":               "SECRET",
	}), folder.Options{})
	for _, tt := range []struct {
		target string
		status int
		body   string
		kind   string // Content-Type, or its beginning
		to     string // Location
	}{
		{target: "/", status: 200, body: "<h1>home</h1>", kind: "text/html; charset=utf-8"},
		{target: "/?x=y", status: 200, body: "<h1>home</h1>"},
		{target: "/index.html", status: 200, body: "<h1>home</h1>"},
		{target: "/style.css", status: 200, body: "body {}", kind: "text/css"},
		{target: "/app.js", status: 200, body: "let x", kind: "text/javascript"},
		{target: "/no%20extension", status: 200, body: "plain words", kind: "text/plain"},
		{target: "/100%25.txt", status: 200, body: "percent"},
		{target: "/a:b.txt", status: 200, body: "colon"},
		{target: "/sub", status: 301, to: "./sub/"},
		{target: "/sub?q=1&r=%20", status: 301, to: "./sub/?q=1&r=%20"},
		{target: "/sub/", status: 200, body: "sub"},
		{target: "/sub/deep/file.txt", status: 200, body: "deep"},
		{target: "/sub%2fdeep%2ffile.txt", status: 200, body: "deep"},
		{target: "/sub/deep/", status: 404},
		{target: "/empty/", status: 404},
		{target: "/odd/", status: 404},
		{target: "/style.css/", status: 404},
		{target: "/missing", status: 404},
		{target: "/.well-known/a.txt", status: 200, body: "known"},
		{target: "/.well-known/.b.txt", status: 404},
		{target: "/sub/.well-known/no.txt", status: 404},
		{target: "/.hidden", status: 404},
		{target: "/%2ehidden", status: 404},
		{target: "/.git/config", status: 404},
		{target: "/.git", status: 404},
		{target: "/sub/.env", status: 404},
		{target: "/..almost", status: 404},
		{target: "/" + strings.Repeat("n", 5000), status: 404},
		{target: "/" + strings.Repeat("n/", 5000), status: 404},
	} {
		resp, body := ask(t, addr, "GET", tt.target)
		if resp.StatusCode != tt.status || tt.status == 200 && body != tt.body || resp.Header.Get("Location") != tt.to ||
			!strings.HasPrefix(resp.Header.Get("Content-Type"), tt.kind) {
			t.Errorf("GET %.80s: %d %q, %v; want %+v", tt.target, resp.StatusCode, body, resp.Header, tt)
		}
		if resp.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("GET %.80s: no nosniff", tt.target)
		}
		head, none := ask(t, addr, "HEAD", tt.target)
		if head.StatusCode != tt.status || none != "" || tt.status == 200 && head.ContentLength != resp.ContentLength {
			t.Errorf("HEAD %.80s: %d, %v, %q; want %d, the same length, and no body", tt.target, head.StatusCode, head.Header, none, tt.status)
		}
	}
}

// Nothing outside of the folder is served, in whatever way it is asked for.
func TestNoEscape(t *testing.T) {
	t.Parallel()
	dir := tree(t, map[string]string{"in/file.txt": "inside", "x": "inside"})
	top := filepath.Dir(dir)
	links := map[string]string{
		"up.txt":         "../secret.txt",
		"absolute.txt":   filepath.Join(top, "secret.txt"),
		"updir":          "..",
		"sibling":        "../public-too",
		"root":           "/",
		"in/chain":       "../in2",
		"in2":            "../public-too",
		"roundabout.txt": "../public/../secret.txt",
		"proc":           "/proc/self",
	}
	for name, to := range links {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"ok.txt": "in/file.txt", "okdir": "in"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, dots := range []bool{false, true} {
		addr := serve(t, dir, folder.Options{Listing: true, DotFiles: dots})
		for _, target := range []string{
			"/../secret.txt", "/in/../../secret.txt", "/%2e%2e/secret.txt", "/%2E%2e/secret.txt", "/.%2e/secret.txt",
			"/..%2fsecret.txt", "/..%2Fsecret.txt", "/in/..%2f..%2fsecret.txt", "/%252e%252e/secret.txt", "/..%252fsecret.txt",
			"/..%5csecret.txt", `/..\secret.txt`, "/..;/secret.txt", "/%c0%ae%c0%ae/secret.txt", "/%uff0e%uff0e/secret.txt",
			"//secret.txt", "//" + top + "/secret.txt", "/" + top + "/secret.txt", "/%2f" + strings.TrimPrefix(top, "/") + "/secret.txt",
			"/./../secret.txt", "/in/./../../secret.txt", "/.../secret.txt", "/../public-too/secret.txt", "/../public/x",
			"/x%00", "/x%00.txt", "/%00", "/in%00/file.txt", "/in//file.txt", "/./x", "/in/../x",
			"/up.txt", "/absolute.txt", "/updir/secret.txt", "/updir/public/x", "/sibling/secret.txt", "/root" + top + "/secret.txt",
			"/in/chain/secret.txt", "/in2/secret.txt", "/roundabout.txt", "/sibling/", "/updir/", "/root/", "/proc/environ",
		} {
			resp, body := ask(t, addr, "GET", target)
			if resp.StatusCode < 400 || resp.StatusCode >= 500 || strings.Contains(body, "SECRET") || strings.Contains(body, "inside") {
				t.Errorf("dot files %v: GET %s: %d %q, want a refusal", dots, target, resp.StatusCode, body)
			}
		}
		for _, target := range []string{"/ok.txt", "/okdir/file.txt"} {
			if resp, body := ask(t, addr, "GET", target); resp.StatusCode != 200 || body != "inside" {
				t.Errorf("dot files %v: GET %s, a link to something inside: %d %q", dots, target, resp.StatusCode, body)
			}
		}
		if _, body := ask(t, addr, "GET", "/"); strings.Contains(body, "up.txt") || strings.Contains(body, "sibling") || !strings.Contains(body, "ok.txt") {
			t.Errorf("dot files %v: the listing shows links that lead outside:\n%s", dots, body)
		}
	}
}

func TestMethods(t *testing.T) {
	t.Parallel()
	addr := serve(t, tree(t, map[string]string{"x": "x"}), folder.Options{})
	for _, m := range []string{"POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PROPFIND"} {
		resp, _ := ask(t, addr, m, "/x")
		if resp.StatusCode != 405 || resp.Header.Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: %d, Allow %q; want 405 and GET, HEAD", m, resp.StatusCode, resp.Header.Get("Allow"))
		}
	}
}

func TestRangesAndConditions(t *testing.T) {
	t.Parallel()
	dir := tree(t, map[string]string{"file.txt": "0123456789"})
	addr := serve(t, dir, folder.Options{})
	first, _ := ask(t, addr, "GET", "/file.txt")
	tag, modified := first.Header.Get("ETag"), first.Header.Get("Last-Modified")
	if tag == "" || modified == "" || first.Header.Get("Accept-Ranges") != "bytes" || first.Header.Get("Cache-Control") != "no-cache" {
		t.Fatalf("GET: %v", first.Header)
	}
	for _, tt := range []struct {
		field  string
		status int
		body   string
	}{
		{"Range: bytes=2-4", 206, "234"},
		{"Range: bytes=-3", 206, "789"},
		{"Range: bytes=8-", 206, "89"},
		{"Range: bytes=10-", 416, ""},
		{"Range: lines=1-2", 416, ""},
		{"Range: bytes=2-4\r\nIf-Range: " + tag, 206, "234"},
		{"Range: bytes=2-4\r\nIf-Range: \"other\"", 200, "0123456789"},
		{"If-None-Match: " + tag, 304, ""},
		{"If-None-Match: W/" + tag, 304, ""},
		{"If-None-Match: \"other\"", 200, "0123456789"},
		{"If-Modified-Since: " + modified, 304, ""},
		{"If-Match: \"other\"", 412, ""},
		{"If-Unmodified-Since: Mon, 01 Jan 1990 00:00:00 GMT", 412, ""},
	} {
		resp, body := ask(t, addr, "GET", "/file.txt", tt.field)
		if resp.StatusCode != tt.status || tt.body != "" && body != tt.body {
			t.Errorf("%q: %d %q, want %d %q", tt.field, resp.StatusCode, body, tt.status, tt.body)
		}
	}
	if resp, body := ask(t, addr, "GET", "/file.txt", "Range: bytes=0-1,4-5"); resp.StatusCode != 206 || !strings.Contains(body, "45") {
		t.Errorf("two ranges: %d %q", resp.StatusCode, body)
	}

	// A file that changes has another tag, also within the second.
	write(t, filepath.Join(dir, "file.txt"), "9876543210")
	if resp, body := ask(t, addr, "GET", "/file.txt", "If-None-Match: "+tag); resp.StatusCode != 200 || body != "9876543210" {
		t.Errorf("after a change: %d %q", resp.StatusCode, body)
	}
}

func TestListing(t *testing.T) {
	t.Parallel()
	dir := tree(t, map[string]string{
		"b.txt":                          "12345",
		"A.txt":                          strings.Repeat("x", 12345),
		"<script>alert(1)</script>.html": "",
		`"quoted".txt`:                   "",
		"javascript:alert(1)":            "",
		"a b%41.txt":                     "odd",
		"dir/":                           "",
		"zdir/file":                      "",
		".hidden":                        "SECRET",
	})
	addr := serve(t, dir, folder.Options{Listing: true})
	resp, body := ask(t, addr, "GET", "/")
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/html; charset=utf-8" || !strings.Contains(resp.Header.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Errorf("GET /: %d, %v", resp.StatusCode, resp.Header)
	}
	for _, want := range []string{">dir/</a>", `href="./dir/"`, "5 B", "12.3 kB", `href="./a%20b%2541.txt"`, "&lt;script&gt;", `href="./javascript:alert%281%29"`} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q in\n%s", want, body)
		}
	}
	for _, not := range []string{"<script", "hidden", `"quoted"`, "../", `href="javascript`} {
		if strings.Contains(body, not) {
			t.Errorf("%q in\n%s", not, body)
		}
	}
	order := []string{">dir/<", ">zdir/<", ">A.txt<", ">b.txt<"}
	for i := 1; i < len(order); i++ {
		if strings.Index(body, order[i-1]) > strings.Index(body, order[i]) {
			t.Errorf("%s comes after %s", order[i-1], order[i])
		}
	}
	if _, body := ask(t, addr, "GET", "/a%20b%2541.txt"); body != "odd" {
		t.Errorf("the link to a name with odd characters leads to %q", body)
	}
	if _, body := ask(t, addr, "GET", "/zdir/"); !strings.Contains(body, `href="../"`) || !strings.Contains(body, "<h1>/zdir/</h1>") {
		t.Errorf("GET /zdir/:\n%s", body)
	}
	if head, body := ask(t, addr, "HEAD", "/"); head.StatusCode != 200 || body != "" || head.ContentLength < 100 {
		t.Errorf("HEAD /: %d, length %d", head.StatusCode, head.ContentLength)
	}
}

// The page for what is not found is the folder's own, and repeats nothing.
func TestNotFoundPage(t *testing.T) {
	t.Parallel()
	own := serve(t, tree(t, map[string]string{"404.html": "<p>gone</p>"}), folder.Options{})
	none := serve(t, tree(t, nil), folder.Options{})
	resp, body := ask(t, own, "GET", "/x")
	if resp.StatusCode != 404 || body != "<p>gone</p>" || resp.Header.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Errorf("with a page: %d %q, %v", resp.StatusCode, body, resp.Header)
	}
	resp, body = ask(t, none, "GET", "/%3Cscript%3Ealert(1)%3C/script%3E")
	if resp.StatusCode != 404 || strings.Contains(body, "script") || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
		t.Errorf("without: %d %q, %v", resp.StatusCode, body, resp.Header)
	}
}

// A folder that is replaced, as programs that build sites do, is served anew.
func TestFolderReplaced(t *testing.T) {
	t.Parallel()
	dir := tree(t, map[string]string{"x": "old"})
	addr := serve(t, dir, folder.Options{})
	if _, body := ask(t, addr, "GET", "/x"); body != "old" {
		t.Errorf("got %q", body)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if resp, body := ask(t, addr, "GET", "/x"); resp.StatusCode != 503 || strings.Contains(body, dir) {
		t.Errorf("without the folder: %d %q, want 503 and no path", resp.StatusCode, body)
	}
	write(t, filepath.Join(dir, "x"), "new")
	if _, body := ask(t, addr, "GET", "/x"); body != "new" {
		t.Errorf("got %q", body)
	}
}

func TestNew(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "")
	for _, dir := range []string{file, filepath.Join(file, "not")} {
		if h, err := folder.New(dir, folder.Options{}); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("New(%q): %v, %v; want an error that names it", dir, h, err)
		}
	}
	h, err := folder.New(".", folder.Options{})
	if err != nil || !filepath.IsAbs(h.Dir()) {
		t.Errorf("New(.): %v, %v; want an absolute path", h, err)
	}
}
