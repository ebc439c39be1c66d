package main

import (
	"bytes"
	"context"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// runWstunnel runs the stand-in for a moment at the most.
func runWstunnel(t *testing.T, environ []string, args ...string) (code int, out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	p := &program{environ: environ, out: &o, errOut: &e}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	code = p.runAs(ctx, "/usr/bin/wstunnel", args)
	return code, o.String(), e.String()
}

// Exit codes and texts that scripts of the original's users know.
func TestWstunnelStart(t *testing.T) {
	const token = "token-of-some-length"
	dir := t.TempDir()
	pairs := filepath.Join(dir, "pairs")
	if err := os.WriteFile(pairs, []byte("# comment\n"+token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(dir, "open")
	if err := os.WriteFile(open, []byte(token+":password\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args string
		code int
		out  string // part of standard output, or of standard error if that is empty
	}{
		{"", 1, "Usage: wstunnel [cli|srv|whois|version] [-options...]"},
		{"version", 1, "wstunnel v1.0.7"},
		{"--version", 1, "lvl=crit"},
		{"-h", 1, "Usage: wstunnel [cli|srv] [-options...]"},
		{"whois one", 1, "Usage: wstunnel whois"},
		{"srv -h", 0, "Usage of server:"},
		{"cli -h", 0, "Usage of client:"},
		{"cli -nothing", 2, "flag provided but not defined: -nothing"},
		{"cli -token " + token + " -server http://h", 1, "Must specify tunnel server ws://hostname:port using -tunnel option"},
		{"cli -token " + token + " -server http://h -tunnel http://h", 1, "Remote tunnel (-tunnel option) must begin with ws:// or wss://"},
		{"cli -server http://h -tunnel ws://h", 1, "Must specify rendez-vous token using -token option"},
		{"cli -token " + token + " -server h -tunnel ws://h", 1, "Local server (-server option) must begin with http:// or https://"},
		{"cli -token " + token + " -tunnel ws://h", 1, "Must specify internal server or server or regexp"},
		{"cli -regexp (", 1, "Can't parse -regexp"},
		{"cli -client-ports x", 1, `Can not convert \"x\" to integer`},
		{"cli -client-ports 5..x", 1, `Invalid Port Assignment: \"x\" in range: \"5..x\"`},
		{"cli -client-ports 5..3", 1, "End port 3 can not be less than beginning port 5"},
		{"cli -proxy http://", 1, "Invalid proxy address"},
		{"srv -syslog x -logfile " + dir + "/log", 1, "Can't log to syslog and logfile simultaneously"},
		{"srv -logfile " + dir + "/none/log", 1, "Can't create log file"},
		{"srv -pidfile " + dir + "/none/pid", 1, "Can't create pidfile"},
		{"srv -host 192.0.2.1 -port 1", 1, "Cannot listen"},
		{"srv -passwords-file " + pairs, 1, "password 1 is not of the form token:password"},
		{"srv -passwords-file " + open, 1, "-passwords-file"},
		{"srv -base-path /a//b", 1, "two slashes"},
		{"srv -log-level loud", 1, "debug, info, warn and error are allowed"},
		{"srv -viewer-key-file " + open, 1, "Can't read -viewer-key-file"},
		{"cli -token-file " + open + " -server http://h -tunnel ws://h", 1, "Can't read -token-file"},
		{"cli -password-file " + dir + "/none -token " + token, 1, "Can't read -password-file"},
		{"cli -token " + token + " -server http://h -tunnel ws://h/?x", 1, "without a query"},
	} {
		code, out, errOut := runWstunnel(t, nil, strings.Fields(tt.args)...)
		if code != tt.code || !strings.Contains(out+errOut, tt.out) {
			t.Errorf("wstunnel %s: got %d, %q, %q; want %d and %q", tt.args, code, out, errOut, tt.code, tt.out)
		}
		if strings.Contains(out+errOut, token) {
			t.Errorf("wstunnel %s: the token is printed: %q, %q", tt.args, out, errOut)
		}
	}
}

func TestWstunnelWayOut(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		environ []string
		flag    string
		server  string
		want    string
	}{
		{nil, "", "http://h", ""},
		{nil, "u:p@proxy:1", "http://h", "http://u:p@proxy:1"},
		{nil, "https://proxy:1", "https://h", "http://proxy:1"},
		{[]string{"http_proxy=http://a:1", "HTTPS_PROXY=http://b:1"}, "", "http://h", "http://b:1"},
		{[]string{"http_proxy=http://a:1"}, "", "https://h", "http://a:1"},
		{[]string{"http_proxy=http://a:1"}, "", "http://127.0.0.1:80", "http://a:1"},
		{[]string{"http_proxy=http://a:1", "NO_PROXY=.example.com,127.0.0.0/8"}, "", "http://x.example.com", ""},
		{[]string{"http_proxy=http://a:1", "NO_PROXY=.example.com,127.0.0.0/8"}, "", "http://127.0.0.1:80", ""},
		{[]string{"http_proxy=http://a:1", "no_proxy=.example.com"}, "", "http://127.0.0.1:80", "http://a:1"},
		{[]string{"http_proxy=http://a:1", "no_proxy=.example.com"}, "", "http://other.example", "http://a:1"},
	} {
		w := &wstunnelRun{p: &program{environ: tt.environ}}
		way, err := w.wayOut(tt.flag)
		if err != nil {
			t.Errorf("%v %q: %v", tt.environ, tt.flag, err)
			continue
		}
		got := ""
		if way != nil {
			server, _ := url.Parse(tt.server)
			if u, err := way(server); err != nil {
				t.Errorf("%v %q: %v", tt.environ, tt.flag, err)
			} else if u != nil {
				got = u.String()
			}
		}
		if got != tt.want {
			t.Errorf("%v %q to %s: got %q, want %q", tt.environ, tt.flag, tt.server, got, tt.want)
		}
	}
}

func TestWstunnelPorts(t *testing.T) {
	t.Parallel()
	got, err := localPorts("8000..8002,9000")
	if want := []int{8000, 8001, 8002, 9000}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	for _, bad := range []string{"0", "65536", "1..65536", "a..5", " 1", "1,", "3..1"} {
		if got, err := localPorts(bad); err == nil {
			t.Errorf("%q: got %v, want an error", bad, got)
		}
	}
}

// The two forms of a line, in which nothing can begin another line.
func TestWstunnelLog(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		style wstunnelStyle
		want  string
	}{
		{logfmtStyle, ` lvl=info msg="HTTP RCV" pkg=p verb=GET x-host="a\nb" status=200` + "\n"},
		{fileStyle, `] INFO HTTP RCV                                 pkg=p verb=GET x-host="a\nb" status=200` + "\n"},
	} {
		var out bytes.Buffer
		log, flush := newWstunnelLog(&out, tt.style, "p")
		log.Info("HTTP RCV", "verb", "GET", "x-host", "a\nb", "none", "", "err", nil, "status", 200)
		flush()
		if got := out.String(); !strings.HasSuffix(got, tt.want) {
			t.Errorf("got %q, want it to end in %q", got, tt.want)
		}
	}
}
