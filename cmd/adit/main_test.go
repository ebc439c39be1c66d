package main

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"adit/internal/testlog"
	"adit/internal/testsignal"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		os.Unsetenv(asProgram)
		main()
	}
	testsignal.Restore()
	goleak.VerifyTestMain(m)
}

// asProgram is set for the program of the tests to be adit.
const asProgram = "ADIT_TEST_AS_PROGRAM"

const (
	testSecret = "a secret of these tests alone"
	patience   = 20 * time.Second // for what has to happen
)

// output is what a program prints.
type output struct{ testlog.Log }

// wait waits until re matches what was printed, and returns the last group.
func (o *output) wait(t *testing.T, re string) string {
	t.Helper()
	return o.Match(t, re)
}

// A command is a run of the program in this process.
type command struct {
	program
	out, err *output
	stop     func() int // ends it as a signal does, and returns its exit code
	code     chan int
}

// newCommand returns a program with a home directory of its own; environ are
// variables besides that.
func newCommand(t *testing.T, environ ...string) *command {
	t.Helper()
	c := &command{out: &output{}, err: &output{}, code: make(chan int, 1)}
	c.program = program{environ: append([]string{"HOME=" + t.TempDir()}, environ...), out: c.out, errOut: c.err, in: strings.NewReader("")}
	return c
}

// start runs the command with args, until stop is called or the test ends.
func (c *command) start(t *testing.T, args ...string) *command {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	go func() { c.code <- c.runAs(ctx, "adit", args) }()
	c.stop = sync.OnceValue(func() int {
		cancel()
		return <-c.code
	})
	t.Cleanup(func() {
		c.stop()
		if t.Failed() {
			t.Logf("adit %s printed:\n%s%s", strings.Join(args, " "), c.out, c.err)
		}
	})
	return c
}

// call runs the program to its end, which has to come by itself.
func call(t *testing.T, environ []string, args ...string) (code int, out, errOut string) {
	t.Helper()
	c := newCommand(t, environ...)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	code = c.runAs(ctx, "adit", args)
	if ctx.Err() != nil {
		t.Errorf("adit %s had to be ended", strings.Join(args, " "))
	}
	return code, c.out.String(), c.err.String()
}

func writeFile(t *testing.T, content string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// startServer runs adit server with testSecret on a free port and returns its
// URL for agents.
func startServer(t *testing.T, args ...string) (c *command, url string) {
	t.Helper()
	c = newCommand(t).start(t, append([]string{"server", "--listen", "127.0.0.1:0", "--secret-file", writeFile(t, testSecret)}, args...)...)
	return c, "ws://" + c.err.wait(t, `"server started","listen":"([^"]*)"`)
}

func site(t *testing.T) (addr string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("the site")) }))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func TestUsageErrors(t *testing.T) {
	t.Parallel()
	secret := writeFile(t, testSecret)
	notPEM := writeFile(t, "no certificate")
	for _, tt := range []struct {
		args    string
		environ []string
		want    []string // in the message
	}{
		{args: "nonsense", want: []string{`"nonsense"`}},
		{args: "http", want: []string{"UPSTREAM is missing", "such as adit http 3000", "adit http --help"}},
		{args: "http 1 2", want: []string{`"2" is one argument too many`, "want adit http UPSTREAM"}},
		{args: "http 3000 --nonsense", want: []string{"--nonsense", "adit http --help"}},
		{args: "htp 3000", want: []string{`"htp" is no command of adit: did you mean adit http?`}},
		{args: "htp --id x 3000", want: []string{`"htp"`, "adit http?"}},
		{args: "htp --help", want: []string{`"htp"`, "adit http?"}},
		{args: "help htp", want: []string{`"htp"`, "adit http?"}},
		{args: "help token crate", want: []string{`"crate" is no command of adit token: did you mean adit token create?`}},
		{args: "token crate --help", want: []string{"adit token create?"}},
		{args: "expose 3000", want: []string{"adit http?"}},
		{args: "3000", want: []string{"did you mean adit http 3000?"}},
		{args: "./testdata", want: []string{"did you mean adit http ./testdata?"}},
		{args: "./nonexistent", want: []string{`"./nonexistent" is no command of adit (see`}},
		{args: "http 3000 --hostnam x", want: []string{"--hostnam: did you mean --hostname?"}},
		{args: "http 3000 --hostheader x", want: []string{"did you mean --host-header?"}},
		{args: "http 3000 --port 80", want: []string{"unknown flag: --port: it is one of adit tcp, adit udp"}},
		{args: "http 3000 -server=me:hidden", want: []string{"unknown flag: -server: did you mean --server?"}},
		{args: "http 3000 --token me:hidden", want: []string{"did you mean --secret-file?"}},
		{args: "http 3000 --server", want: []string{"--server needs a value: URL"}},
		{args: "http 3000 --listing=x", want: []string{`--listing "x": want true or false`}},
		{args: "forward", want: []string{"FORWARD is missing", "such as adit forward 5432:db.internal:5432"}},
		{args: "server x", want: []string{"adit server takes no arguments", `"x"`}},
		{args: "agent --config x y", want: []string{"adit agent takes no arguments", `"y"`}},
		{args: "http 0", want: []string{`"0"`, "1 to 65535"}},
		{args: "http abc", want: []string{`upstream "abc": want a port from 1 to 65535, host:port or a URL`}},
		{args: "http app.internal", want: []string{"has no port", "such as app.internal:80"}},
		{args: "http app.internal:http", want: []string{`the port "http": 1 to 65535`}},
		{args: "http 65536", want: []string{`"65536"`, "1 to 65535"}},
		{args: "http ftp://host", want: []string{`"ftp"`, "http, https, h2c, h2, tcp, udp and unix"}},
		{args: "http http://host/path", want: []string{"http://host"}},
		{args: "http 3000 --listing", want: []string{"--listing", `"3000"`, "./"}},
		{args: "tcp 22 --listing", want: []string{"--listing"}},
		{args: "tcp ./public", want: []string{`"./public"`}},
		{args: "http testdata", want: []string{`"testdata"`, "./testdata"}},
		{args: "http 3000 --id Web", want: []string{"--id", `"Web"`, "a-z, 0-9 and '-'"}},
		{args: "http 3000 --id www", want: []string{"--id", `"www"`, "reserved"}},
		{args: "http 3000 --server tunnel.example.com", want: []string{"--server", `"tunnel.example.com"`, "wss://"}},
		{args: "http 3000 --server wss://me:hidden@host", want: []string{"--server", "user or password"}},
		{args: "http 3000 --server wss://host:99999", want: []string{"--server", "99999", "1 to 65535"}},
		{args: "http 3000 --server wss://host/?token=hidden", want: []string{"--server"}},
		{args: "http 3000 --log-level loud", want: []string{"--log-level", `"loud"`, "debug, info, warn and error"}},
		{args: "http 3000 --log-format xml", want: []string{"--log-format", `"xml"`, "auto, text and json"}},
		{args: "http 3000 --instance " + strings.Repeat("i", 129), want: []string{"--instance", "129", "128"}},
		{args: "http 3000 --ca-file " + notPEM, want: []string{"--ca-file", notPEM, "PEM"}},
		{args: "http 3000", want: []string{"no credential", "ADIT_TOKEN", "--secret-file", "start adit server", ".local/state/adit/secret\n"}},
		{args: "http 3000 --server wss://h", want: []string{"no credential", "or a token\n"}},
		{args: "http 3000", environ: []string{"ADIT_TOKEN=hidden", "ADIT_SECRET_FILE=" + secret}, want: []string{"ADIT_TOKEN", "ADIT_SECRET_FILE"}},
		{args: "http 3000", environ: []string{"ADIT_TOKENS=hidden"}, want: []string{"ADIT_TOKENS", "did you mean ADIT_TOKEN?"}},
		{args: "server", environ: []string{"ADIT_VERSION=1"}, want: []string{"ADIT_VERSION"}},
		{args: "server", environ: []string{"ADIT_HELP=1"}, want: []string{"ADIT_HELP"}},
		{args: "server", environ: []string{"ADIT_HOLD=hidden"}, want: []string{"ADIT_HOLD", "want a time such as 30s"}},
		{args: "server --secret-file " + secret, environ: []string{"ADIT_TOKEN=hidden"}, want: []string{"ADIT_TOKEN", "--secret-file"}},
		{args: "tcp 22 --port 65536", want: []string{`--port "65536": want a whole number from 0 to 65535`}},
		{args: "tcp 22 --port x", want: []string{"--port", `"x"`}},
		{args: "agent", want: []string{"--tunnel", "ID=UPSTREAM"}},
		{args: "agent --tunnel web", want: []string{`--tunnel "web"`, "ID=UPSTREAM"}},
		{args: "agent --tunnel Web=3000", want: []string{"--tunnel", `"Web"`}},
		{args: "agent --tunnel ssh=tcp://h:22@0", want: []string{"--tunnel", `"0"`, "1 to 65535"}},
		{args: "agent --tunnel web=3000 --tunnel web=3001", want: []string{"--tunnel", `"web"`, "twice"}},
		{args: "server --listen 8080", want: []string{"--listen", `"8080"`, "did you mean :8080?"}},
		{args: "server --listen :http", want: []string{"--listen", `":http"`}},
		{args: "server --domain http://example.com", want: []string{"--domain", `"http://example.com"`, "tunnel.example.com"}},
		{args: "server --domain 127.0.0.1", want: []string{"--domain", `"127.0.0.1"`}},
		{args: "server --public-url example.com", want: []string{"--public-url", `"example.com"`, "https://"}},
		{args: "server --public-url https://me:hidden@example.com", want: []string{"--public-url", "example.com"}},
		{args: "server --udp-ports 53,x", want: []string{"--udp-ports", `"x"`, "1 to 65535"}},
		{args: "server --tcp-ports 3000-2000", want: []string{"--tcp-ports", `"3000-2000"`, "1 to 65535"}},
		{args: "server --trusted-proxies proxy", want: []string{"--trusted-proxies", `"proxy"`, "10.0.0.0/8"}},
		{args: "server --trusted-proxies 0.0.0.0/0", want: []string{"--trusted-proxies", `"0.0.0.0/0"`, "10.0.0.0/8"}},
		{args: "server --proxy-protocol-from 10.0.0.1,::/0", want: []string{"--proxy-protocol-from", `"::/0"`, "pass for another"}},
		{args: "server --websocktunnel-audience x", want: []string{"--websocktunnel-secret-file"}},
		{args: "server --websocktunnel-secret-file " + writeFile(t, "a\nb\nc"), want: []string{"--websocktunnel-secret-file", "3 secrets", "1 to 2"}},
		{args: "server --websocktunnel-tokens none --websocktunnel-secret-file " + secret, want: []string{"--websocktunnel-tokens", `"none"`, "strict and lax"}},
		{args: "server --hold -1s", want: []string{"--hold", "-1s", "24h"}},
		{args: "server --hold 5", want: []string{`--hold "5": want a time such as 30s, 5m or 1h`}},
		{args: "server --grace 25h", want: []string{"--grace", "25h", "24h"}},
		{args: "server --resume-window -1s", want: []string{"--resume-window", "-1s"}},
		{args: "server --buffer-memory 0", want: []string{"--buffer-memory", "0", "1 to"}},
		{args: "token create", want: []string{"--id"}},
		{args: "token create --hostname app.example.com", want: []string{"--id"}},
		{args: "token create --id a --ttl 0s", want: []string{"--ttl", "0s", "1s"}},
		{args: "token create --id a --ttl 999999h", want: []string{"--ttl", "87600h"}},
		{args: "token create --id a --type opaque", want: []string{"--type", `"opaque"`, "jwt and static"}},
		{args: "token create --id a --type static --secret-file " + secret, want: []string{"--secret-file", "--data-dir"}},
		{args: "token create --id a --udp-ports 0", want: []string{"--udp-ports", `"0"`}},
		{args: "token create --udp-ports 53", want: []string{"--id is missing"}},
		{args: "token create --id a --tcp-ports x", want: []string{"--tcp-ports", `"x"`}},
		{args: "token create --id é", want: []string{"--id", "visible ASCII"}},
		{args: "token create --id a --hostname app.*", want: []string{"--hostname", `"app.*"`}},
		{args: "token create --id a --forward db", want: []string{"--forward", `"db"`, "db.internal:5432"}},
		{args: "token create --id a --subject secret", want: []string{"subject", `"secret"`, "reserved"}},
		{args: "token create --id a --subject cert:web", want: []string{"subject", "reserved"}},
		{args: "token create --id a --out " + secret, want: []string{"--out", secret}},
		{args: "token create --id a --lasts 1h", want: []string{"--lasts", "adit token create --help"}},
		{args: "token revoke", want: []string{"--file and --subject"}},
		{args: "token revoke x --subject y", want: []string{"one of"}},
		{args: "token revoke adit_token_x_hidden", want: []string{"list of processes"}},
		{args: "token inspect a b", want: []string{`"b" is one argument too many`}},
		{args: "token viewer", want: []string{"--id is missing"}},
		{args: "token nonsense", want: []string{`"nonsense"`}},
		{args: "http 3000 --token-stdin --token-command x", want: []string{"--token-stdin and --token-command"}},
		{args: "http 3000 --token-stdin --secret-file " + secret, want: []string{"--secret-file and --token-stdin"}},
		{args: "http 3000", environ: []string{"ADIT_TOKEN=hidden", "ADIT_TOKEN_COMMAND=x"}, want: []string{"ADIT_TOKEN and ADIT_TOKEN_COMMAND"}},
		{args: "http 3000 --cert " + secret, want: []string{"--cert", "ws://", "wss://"}},
		{args: "http 3000 --server wss://h --key " + secret, want: []string{"--key", "--cert"}},
		{args: "http 3000 --server wss://h --token-stdin --cert " + secret, want: []string{"--cert and --token-stdin"}},
		{args: "server --jwt-issuer x", want: []string{"--jwt-issuer", "--jwks"}},
		{args: "server --jwt-audience x", want: []string{"--jwt-audience", "--jwks"}},
		{args: "server --grants x", want: []string{"--grants", "--jwks"}},
		{args: "server --jwks https://issuer.test/jwks", want: []string{"--jwt-issuer", "--jwt-audience"}},
		{args: "server --jwks https://issuer.test/jwks --jwt-issuer x", want: []string{"--jwt-audience"}},
		{args: "server --jwks http://issuer.test/jwks --jwt-issuer x --jwt-audience y", want: []string{"--jwks", "https"}},
		{args: "server --jwks https://me:hidden@issuer.test/ --jwt-issuer x --jwt-audience y", want: []string{"--jwks", "password"}},
		{args: "server", environ: []string{"ADIT_JWT_ISSUER=x"}, want: []string{"--jwt-issuer", "--jwks"}},
		{args: "server --reserved-ids a,é", want: []string{"--reserved-ids"}},
		{args: "server --max-forwards 0", want: []string{"--max-forwards", "0", "1 to 1000000"}},
		{args: "server --max-forwards-per-subject -1", want: []string{"--max-forwards-per-subject", "-1"}},
		{args: "server --max-agents-per-subject -1", want: []string{"--max-agents-per-subject", "-1"}},
		{args: "version now", want: []string{"now"}},
	} {
		t.Run(strings.Join(append(tt.environ, tt.args), " "), func(t *testing.T) {
			t.Parallel()
			code, out, errOut := call(t, tt.environ, strings.Fields(tt.args)...)
			if code != exitUsage {
				t.Errorf("got exit code %d, want %d", code, exitUsage)
			}
			for _, want := range tt.want {
				if !strings.Contains(errOut, want) {
					t.Errorf("got %q, want something with %q", errOut, want)
				}
			}
			if strings.Contains(out+errOut, "me:hidden") || strings.Contains(out+errOut, "=hidden\"") {
				t.Errorf("got %q, which shows a secret", errOut)
			}
			for line := range strings.Lines(errOut) {
				if !strings.HasPrefix(line, "adit: ") {
					t.Errorf("got the line %q, want each to say whose it is", line)
				}
			}
		})
	}
}

func TestFailures(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	open := writeFile(t, testSecret)
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		args []string
		want []string
	}{
		{"address in use", []string{"server", "--listen", ln.Addr().String()}, []string{ln.Addr().String(), "in use", "--listen takes another"}},
		{"address for TLS in use", []string{"server", "--listen", "127.0.0.1:0", "--dev-tls", "--tls-listen", ln.Addr().String()}, []string{"in use", "--tls-listen takes another"}},
		{"no secret file", []string{"server", "--listen", "127.0.0.1:0", "--secret-file", "/nonexistent/secret"}, []string{"/nonexistent/secret", "no such file"}},
		{"secret for all to read", []string{"server", "--listen", "127.0.0.1:0", "--secret-file", open}, []string{open}},
		{"agent's secret for all to read", []string{"http", "3000", "--secret-file", open}, []string{open}},
		{"short secret", []string{"http", "3000", "--secret-file", writeFile(t, "short")}, []string{"5 bytes", "16 to 4096"}},
		{"no folder", []string{"http", "./nonexistent"}, []string{`"./nonexistent"`, "no such file"}},
		{"a path of a service", []string{"http", "localhost:3000/app"}, []string{"no such file", "for the service at localhost:3000 leave the path out"}},
		{"a file for a folder", []string{"http", open}, []string{open, "no folder"}},
		{"no CA file", []string{"http", "3000", "--ca-file", "/nonexistent/ca"}, []string{"--ca-file", "/nonexistent/ca"}},
		{"no secret to sign with", []string{"token", "create", "--id", "a"}, []string{"secret", "no such file"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			code, _, errOut := call(t, nil, tt.args...)
			if code != exitFailed {
				t.Errorf("got exit code %d, want %d", code, exitFailed)
			}
			for _, want := range tt.want {
				if !strings.Contains(errOut, want) {
					t.Errorf("got %q, want something with %q", errOut, want)
				}
			}
		})
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	for _, args := range []string{"", "help", "--help", "server --help", "http --help", "tcp --help", "agent --help", "token --help", "token", "token create --help", "token inspect --help", "token revoke --help", "token list --help", "demo --help", "version", "--version", "help http", "help token create"} {
		code, out, errOut := call(t, nil, strings.Fields(args)...)
		if code != exitDone || out == "" || errOut != "" {
			t.Errorf("adit %s: got exit code %d, %q and %q, want text and no error", args, code, out, errOut)
		}
		for line := range strings.Lines(out) {
			if strings.Contains(line, "ADIT_TOKEN=") || strings.Contains(line, "DEPRECATED") {
				t.Errorf("adit %s: got the line %q", args, line)
			}
		}
	}
}

func TestEnvironmentSetsFlags(t *testing.T) {
	t.Parallel()
	a, b := writeFile(t, testSecret), writeFile(t, "another secret than that")
	start := func(t *testing.T, environ []string, args ...string) *command {
		c := newCommand(t, environ...).start(t, append([]string{"server"}, args...)...)
		c.err.wait(t, "server started")
		return c
	}
	environ := []string{"ADIT_LISTEN=127.0.0.1:0", "ADIT_DOMAIN=env.example.com", "ADIT_SECRET_FILE=" + a, "PATH=/bin"}
	c := start(t, environ)
	if got := c.err.String(); !strings.Contains(got, "http://env.example.com:") {
		t.Errorf("got %s, want the domain of the environment", got)
	}
	c = start(t, environ, "--domain", "flag.example.com", "--secret-file", b)
	if got := c.err.String(); !strings.Contains(got, "http://flag.example.com:") {
		t.Errorf("got %s, want the domain of the flag", got)
	}
	if code := c.stop(); code != exitDone {
		t.Errorf("got exit code %d after a signal, want %d", code, exitDone)
	}
}
