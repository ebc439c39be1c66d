package e2e

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// startNginx serves the files of the folder that it returns, and stores what
// is PUT there.
func startNginx(t *testing.T) (addr, root string) {
	t.Helper()
	root = filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	addr = "127.0.0.1:" + freePort(t)
	p := nginxWith(t, fmt.Sprintf("client_max_body_size 0; server { listen %s; root %s; dav_methods PUT; }", addr, root), "")
	waitAccepts(t, p, addr)
	return addr, root
}

// nginxWith runs nginx with these servers, in the http and the stream module.
func nginxWith(t *testing.T, httpServers, streamServers string) *process {
	t.Helper()
	nginx := need(t, "nginx")
	module := "/usr/lib/nginx/modules/ngx_stream_module.so"
	if _, err := os.Stat(module); err != nil && streamServers != "" {
		missing(t, "the stream module of nginx")
	}
	dir := t.TempDir()
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;"
	}
	stream := ""
	if streamServers != "" {
		stream = fmt.Sprintf("stream {\n%s\n}\n", streamServers)
		user += " load_module " + module + ";"
	}
	conf := fmt.Sprintf(`%s daemon off; pid %[2]s/pid; error_log stderr error;
events {}
http {
	access_log off; default_type text/plain;
	client_body_temp_path %[2]s/body; proxy_temp_path %[2]s/proxy; fastcgi_temp_path %[2]s/fastcgi;
	uwsgi_temp_path %[2]s/uwsgi; scgi_temp_path %[2]s/scgi;
%[3]s
}
%[4]s`, user, dir, httpServers, stream)
	path := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	return start(t, "nginx", exec.Command(nginx, "-e", "stderr", "-c", path))
}

func writeFile(t *testing.T, path string, size int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(f, body(size)); err != nil {
		t.Fatal(err)
	}
}

func sumOf(t *testing.T, path string) [sha256.Size]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func TestCurlReachesNginxThroughHTTPTunnel(t *testing.T) {
	t.Parallel()
	curl := need(t, "curl")
	addr, root := startNginx(t)
	if err := os.WriteFile(filepath.Join(root, "index.html"), []byte("hello from nginx\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	const size = 5<<20 + 17
	file := filepath.Join(t.TempDir(), "file")
	writeFile(t, file, size)
	s, _ := startHTTP(t, addr)
	base := s.hostURL("web")
	get := func(args ...string) string {
		t.Helper()
		return run(t, time.Minute, curl, append([]string{"-sS", "--fail", "--max-time", "50", "--connect-to", "::" + s.addr}, args...)...)
	}

	if got, want := get(base+"/"), "hello from nginx\n"; got != want {
		t.Errorf("GET: got %q, want %q", got, want)
	}

	head := get("--head", base+"/")
	if !strings.HasPrefix(head, "HTTP/1.1 200 ") || !strings.Contains(strings.ToLower(head), "\r\ncontent-length: 17\r\n") {
		t.Errorf("HEAD: got %q, want status 200 with the length 17", head)
	}

	for _, tt := range []struct {
		name string
		args []string
	}{
		{"expect-continue", []string{"-H", "Expect: 100-continue", "--expect100-timeout", "40"}},
		{"chunked", []string{"-H", "Transfer-Encoding: chunked"}},
		{"plain", []string{"-H", "Expect:"}},
	} {
		begun := time.Now()
		get(append(tt.args, "-T", file, base+"/"+tt.name)...)
		if took := time.Since(begun); took > 20*time.Second {
			t.Errorf("%s upload took %s, as if the 100 was not passed on", tt.name, took)
		}
		if got, want := sumOf(t, filepath.Join(root, tt.name)), sumOf(t, file); got != want {
			t.Errorf("%s upload: got SHA-256 %x, want %x", tt.name, got, want)
		}
	}

	copied := filepath.Join(t.TempDir(), "copied")
	get("-o", copied, base+"/chunked")
	if got, want := sumOf(t, copied), sumOf(t, file); got != want {
		t.Errorf("download: got SHA-256 %x, want %x", got, want)
	}

	ranged := get("-r", "1000-1009", base+"/chunked")
	if want := string(piece(1000, 10)); ranged != want {
		t.Errorf("range: got %q, want %q", ranged, want)
	}
}
