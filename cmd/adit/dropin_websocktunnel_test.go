package main

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
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

	"adit/internal/testca"
	"adit/internal/testraw"
)

// tunnelToken signs a token for an ID with one of the secrets of
// startWebsocktunnel.
func tunnelToken(t *testing.T, id string, more map[string]any) string {
	t.Helper()
	claims := map[string]any{"tid": id, "nbf": time.Now().Add(-time.Minute).Unix(), "exp": time.Now().Add(time.Hour).Unix()}
	for k, v := range more {
		claims[k] = v
	}
	b, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256"}`)) + "." + base64.RawURLEncoding.EncodeToString(b)
	mac := hmac.New(sha256.New, []byte("test-secret-a"))
	io.WriteString(mac, text)
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// startWebsocktunnel runs websocktunnel on a free port, and returns its port.
func startWebsocktunnel(t *testing.T, environ []string, args ...string) (c *command, port string) {
	t.Helper()
	environ = append([]string{"PORT=0", "URL_PREFIX=http://tunnel.test/", "TASKCLUSTER_PROXY_SECRET_A=test-secret-a", "TASKCLUSTER_PROXY_SECRET_B=test-secret-b"}, environ...)
	c = newCommand(t, environ...).start(t, append([]string{"websocktunnel"}, args...)...)
	listen := c.err.wait(t, `listen"?[=:]"?([^" ]*:\d+)`)
	_, port, err := net.SplitHostPort(listen)
	if err != nil {
		t.Fatal(err)
	}
	return c, port
}

// askRaw sends a request as it is, and returns the answer but for the date.
func askRaw(t *testing.T, port, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return askOn(t, conn, request)
}

// askOn is askRaw on a conn, which stays open.
func askOn(t *testing.T, conn net.Conn, request string) string {
	t.Helper()
	return testraw.Dateless(testraw.Ask(t, conn, bufio.NewReader(conn), request))
}

// What the originals answer to requests that reach no client, byte by byte.
func TestWebsocktunnelVectors(t *testing.T) {
	t.Parallel()
	_, port := startWebsocktunnel(t, nil, "--tokens", "lax")
	for _, file := range []string{"websocktunnel/responses.json", "webhooktunnel/responses-2018-12-single.json"} {
		text, err := os.ReadFile(filepath.Join("..", "..", "dialect", "websocktunnel", "testdata", filepath.FromSlash(file)))
		if err != nil {
			t.Fatal(err)
		}
		var vectors []struct{ Name, Request, Response string }
		if err := json.Unmarshal(text, &vectors); err != nil {
			t.Fatal(err)
		}
		for _, v := range vectors {
			request, want := testraw.Bytes(v.Request), testraw.Bytes(v.Response)
			switch v.Name {
			case "version without the version file":
				// The original answers twice in one body.
				want = strings.Replace(want, "No client is connected with that id\n", "", 1)
				want = strings.Replace(want, "Content-Length: 55", "Content-Length: 19", 1)
			case "CONNECT":
				want = "" // 404 too, and then the conn is closed
			}
			got := askRaw(t, port, request)
			if want == "" {
				want = got[:0] + "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nContent-Length: 19\r\nAllow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\nConnection: close\r\n\r\n404 page not found\n"
			}
			var lines []string
			for line := range strings.SplitAfterSeq(want, "\r\n") {
				if !strings.HasPrefix(line, "Date: ") {
					lines = append(lines, line)
				}
			}
			if want = strings.Join(lines, ""); got != want {
				t.Errorf("%s: %s:\n got %q\nwant %q", file, v.Name, got, want)
			}
		}
	}
}

// The client of the one and the server of the other, with HTTP in between.
func TestWebsocktunnelAndClient(t *testing.T) {
	t.Parallel()
	s, port := startWebsocktunnel(t, nil)
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.RequestURI, " ", r.Header.Get("X-Websocktunnel-Original-Path"))
	}))
	defer upstream.Close()
	defer s.stop()
	_, target, _ := net.SplitHostPort(upstream.Listener.Addr().String())
	server := "http://127.0.0.1:" + port
	file := filepath.Join(t.TempDir(), "url")
	token := tunnelToken(t, "demo", nil)
	for name, args := range map[string][]string{
		"as documented":     {server, "demo", target, "--token", token, "--out-file=" + file, "--verbose"},
		"without the word":  {server, "demo", target, token, "--json"},
		"short options":     {"--verb", server, "--out", file, "demo", target, "--tok", token},
		"websocket address": {"ws://127.0.0.1:" + port, "demo", target, "--token", token},
	} {
		c := newCommand(t).start(t, append([]string{"wst-client"}, args...)...)
		c.err.wait(t, `connected to websocktunnel.*http://tunnel.test/demo`)
		if got, want := get(t, server+"/demo/a%2Fb?c"), "/a%2Fb?c /demo/a/b"; got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
		if strings.Contains(strings.Join(args, " "), file) {
			c.err.wait(t, `wrote url to file" file=\S+ url="http://tunnel.test/demo"`)
			if b, err := os.ReadFile(file); string(b) != "http://tunnel.test/demo" || err != nil {
				t.Errorf("%s: the file holds %q, %v", name, b, err)
			}
		}
		if code := c.stop(); code != exitDone {
			t.Errorf("%s: exit code %d after a signal, want %d", name, code, exitDone)
		}
		if strings.Contains(c.err.String(), token) || strings.Contains(s.err.String(), token) || strings.Contains(s.err.String(), "test-secret") {
			t.Errorf("%s: what is secret shows in a log", name)
		}
	}
}

func TestWebsocktunnelUsage(t *testing.T) {
	t.Parallel()
	good := []string{"PORT=0", "URL_PREFIX=http://x", "TASKCLUSTER_PROXY_SECRET_A=a", "TASKCLUSTER_PROXY_SECRET_B=b"}
	pair, _ := tunnelCertificate(t, "x.test")
	without := func(name string, more ...string) []string {
		var env []string
		for _, v := range good {
			if !strings.HasPrefix(v, name+"=") {
				env = append(env, v)
			}
		}
		return append(env, more...)
	}
	for _, tt := range []struct {
		name string
		env  []string
		args string
		code int
		out  string
	}{
		{"help", nil, "--h", exitDone, "URL_PREFIX"},
		{"shortened version", nil, "--v", exitDone, "websocktunnel 106.0.0\n"},
		{"version", nil, "--version", exitDone, "websocktunnel 106.0.0\n"},
		{"short version", nil, "--sh", exitDone, "106.0.0\n"},
		{"argument", good, "x", exitFailed, "Usage"},
		{"option", good, "--what", exitFailed, "Usage"},
		{"no address", without("URL_PREFIX"), "", exitUsage, "URL_PREFIX"},
		{"no secret A", without("TASKCLUSTER_PROXY_SECRET_A"), "", exitUsage, "TASKCLUSTER_PROXY_SECRET_A"},
		{"no secret B", without("TASKCLUSTER_PROXY_SECRET_B"), "", exitUsage, "TASKCLUSTER_PROXY_SECRET_B"},
		{"no such port", without("PORT", "PORT=70000"), "", exitUsage, "70000"},
		{"TLS key that is none", without("", "TLS_KEY=bm90IGEga2V5", "TLS_CERTIFICATE=bm90IGEgY2VydA=="), "", exitUsage, "TLS_KEY"},
		{"TLS key alone", without("", "TLS_KEY=bm90IGEga2V5"), "", exitUsage, "TLS_CERTIFICATE"},
		{"TLS garbage", without("", "TLS_KEY=!", "TLS_CERTIFICATE=!"), "", exitUsage, "TLS_KEY"},
		{"syslog address", without("", "ENV=production", "SYSLOG_ADDR=nowhere"), "", exitUsage, "SYSLOG_ADDR"},
		{"domain", good, "--domain=a_b.test", exitUsage, "--domain: domain \"a_b.test\""},
		{"HOSTNAME", without("URL_PREFIX", append([]string{"HOSTNAME=a_b.test"}, pair...)...), "", exitUsage, "HOSTNAME: domain"},
		{"tokens", good, "--tokens=none", exitUsage, "strict and lax"},
		{"status", good, "--unknown-status=200", exitUsage, "504 and 404"},
		{"hold", good, "--hold=-1s", exitUsage, "--hold"},
		{"variable of adit", without("", "ADIT_WHAT=x"), "", exitUsage, "ADIT_WHAT"},
	} {
		code, out, errOut := call(t, tt.env, append([]string{"websocktunnel"}, strings.Fields(tt.args)...)...)
		if code != tt.code || !strings.Contains(out+errOut, tt.out) {
			t.Errorf("%s: exit code %d, %q%q; want %d and %q", tt.name, code, out, errOut, tt.code, tt.out)
		}
	}
}

// tunnelCertificate returns a certificate for names and its key, as TLS_CERTIFICATE and
// TLS_KEY have them, and who trusts it.
func tunnelCertificate(t *testing.T, names ...string) (environ []string, roots *x509.CertPool) {
	t.Helper()
	ca := testca.New(t)
	cert, key := testca.PEM(t, ca.Issue(t, testca.Server(names...)))
	return []string{
		"TLS_CERTIFICATE=" + base64.StdEncoding.EncodeToString(cert),
		"TLS_KEY=" + base64.StdEncoding.EncodeToString(key),
	}, ca.Pool
}

// Where clients are found: the address that each family is told, and the
// requests that lead there.
func TestWebsocktunnelAddresses(t *testing.T) {
	t.Parallel()
	pair, roots := tunnelCertificate(t, "tunnel.test", "*.tunnel.test")
	secure := append([]string{"HOSTNAME=tunnel.test"}, pair...)
	for _, tt := range []struct {
		name         string
		env          []string
		args         string
		header       string
		id           string
		url          string // with port 0, as PORT has it
		host, target string // of a visitor who gets there
	}{
		{"URL_PREFIX", nil, "", "websocktunnel", "demo", "http://tunnel.test/demo", "any.test", "/demo/x"},
		{"and a container's HOSTNAME", []string{"HOSTNAME=3f1a"}, "", "webhooktunnel", "demo", "http://tunnel.test/demo", "any.test", "/demo/x"},
		{"HOSTNAME alone", []string{"URL_PREFIX=", "HOSTNAME=h.test"}, "", "websocktunnel", "demo", "http://h.test:0/demo", "any.test", "/demo/x"},
		{"HOSTNAME alone, older", []string{"URL_PREFIX=", "HOSTNAME=h.test"}, "", "webhooktunnel", "demo", "http://h.test/demo", "any.test", "/demo/x"},
		{"HOSTNAME alone, older, with port", []string{"URL_PREFIX=", "HOSTNAME=h.test"}, "--url-port", "webhooktunnel", "demo", "http://h.test:0/demo", "any.test", "/demo/x"},
		{"TLS", append([]string{"URL_PREFIX="}, secure...), "", "websocktunnel", "demo", "https://tunnel.test:0/demo", "tunnel.test", "/demo/x"},
		{"TLS, older", append([]string{"URL_PREFIX="}, secure...), "", "webhooktunnel", "demo", "https://demo.tunnel.test", "DEMO.tunnel.test:1", "/x"},
		{"TLS, older, with port", append([]string{"URL_PREFIX="}, secure...), "--url-port", "webhooktunnel", "demo", "https://demo.tunnel.test:0", "demo.tunnel.test", "/x"},
		{"TLS, older, by path", append([]string{"URL_PREFIX="}, secure...), "", "webhooktunnel", "De_mo", "https://tunnel.test/De_mo", "tunnel.test", "/De_mo/x"},
		{"a domain", nil, "--domain=ids.test", "websocktunnel", "demo", "http://demo.ids.test", "demo.ids.test", "/x"},
		{"a domain, in front of a port", []string{"URL_PREFIX=http://tunnel.test:8080", "ADIT_DOMAIN=ids.test"}, "", "webhooktunnel", "demo", "http://demo.ids.test:8080", "demo.ids.test:8080", "/x"},
		{"a domain, by path", nil, "--domain=ids.test", "websocktunnel", "De_mo", "http://tunnel.test/De_mo", "tunnel.test", "/De_mo/x"},
		{"TLS, older and another domain", append([]string{"URL_PREFIX="}, secure...), "--domain=ids.test", "webhooktunnel", "demo", "https://demo.ids.test:0", "demo.ids.test", "/x"},
		{"TLS and both", append([]string{"URL_PREFIX=https://other.test"}, secure...), "", "websocktunnel", "demo", "https://other.test/demo", "other.test", "/demo/x"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, port := startWebsocktunnel(t, tt.env, strings.Fields(tt.args)...)
			dial := func() net.Conn {
				conn, err := net.Dial("tcp", "127.0.0.1:"+port)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { conn.Close() })
				if strings.HasPrefix(tt.url, "https") {
					conn = tls.Client(conn, &tls.Config{RootCAs: roots, ServerName: "tunnel.test"})
				}
				return conn
			}
			agent := dial()
			answer := askOn(t, agent, fmt.Sprintf("GET / HTTP/1.1\r\nHost: any.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"+
				"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nx-%s-id: %s\r\nAuthorization: Bearer %s\r\n\r\n", tt.header, tt.id, tunnelToken(t, tt.id, nil)))
			if want := "-Client-Url: " + tt.url + "\r\n"; !strings.Contains(answer, want) {
				t.Errorf("got %q, want %q", answer, want)
			}
			visitor := dial()
			go fmt.Fprintf(visitor, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", tt.target, tt.host)
			// The raw agent sees the SYN, and that is enough.
			b := make([]byte, 100)
			var seen []byte
			for !bytes.Contains(seen, []byte("\x82\x05\x01\x00\x00\x00\x00")) {
				n, err := agent.Read(b)
				if err != nil {
					t.Fatalf("the visitor does not get to the agent: %q, %v", seen, err)
				}
				seen = append(seen, b[:n]...)
			}
			if strings.HasPrefix(tt.url[strings.Index(tt.url, "//")+2:], tt.id+".") {
				if answer := askOn(t, dial(), "GET /demo/x HTTP/1.1\r\nHost: tunnel.test\r\n\r\n"); !strings.HasPrefix(answer, "HTTP/1.1 404") {
					t.Errorf("by path, in an origin that ids share: %q, want 404", answer)
				}
			}
			if strings.HasPrefix(tt.url, "https") {
				if answer := askOn(t, dial(), "GET /demo/x HTTP/1.1\r\nHost: elsewhere.test\r\n\r\n"); !strings.HasPrefix(answer, "HTTP/1.1 404") {
					t.Errorf("another host: %q, want 404", answer)
				}
				if answer := askRaw(t, port, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); !strings.HasPrefix(answer, "HTTP/1.0 400") {
					t.Errorf("without TLS: %q, want 400", answer)
				}
			}
		})
	}
}

func TestWebsocktunnelUnknownStatus(t *testing.T) {
	t.Parallel()
	_, port := startWebsocktunnel(t, []string{"ADIT_UNKNOWN_STATUS=404"})
	if answer := askRaw(t, port, "GET /nobody/x HTTP/1.1\r\nHost: x\r\n\r\n"); !strings.HasPrefix(answer, "HTTP/1.1 404") || !strings.HasSuffix(answer, "\r\n\r\nNot Found\n") {
		t.Errorf("got %q", answer)
	}
}

// The log in production goes to syslog too, in the same form.
func TestWebsocktunnelSyslog(t *testing.T) {
	t.Parallel()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	c, _ := startWebsocktunnel(t, []string{"ENV=production", "SYSLOG_ADDR=" + pc.LocalAddr().String()})
	pc.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 4096)
	n, _, err := pc.ReadFrom(b)
	if err != nil {
		t.Fatal(err)
	}
	c.stop()
	line, _, _ := strings.Cut(c.err.String(), "\n")
	priority, text, ok := strings.Cut(string(b[:n]), "]: ")
	if !ok || strings.TrimSpace(text) != line || !strings.Contains(priority, " websocktunnel[") {
		t.Errorf("syslog got %q, standard error %q", b[:n], line)
	}
	var envelope struct {
		Timestamp                      int64
		Time, Type, Logger, EnvVersion string
		Pid, Severity                  int
		Fields                         map[string]any
	}
	if err := json.Unmarshal([]byte(line), &envelope); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	if envelope.Type != "app.log" || envelope.Logger != "websocktunnel" || envelope.EnvVersion != "2.0" || envelope.Pid != os.Getpid() ||
		envelope.Severity != 6 || envelope.Fields["msg"] != "server started" || time.Since(time.Unix(0, envelope.Timestamp)) > time.Minute {
		t.Errorf("got %+v", envelope)
	}
}
