package main

import (
	"encoding/json"
	"net"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"adit/internal/hostile"
)

func TestDoctor(t *testing.T) {
	t.Parallel()
	login := hostile.NewProxy(t, hostile.ProxyOptions{Login: hostile.NTLM("NTLM", "CORP", "me", "secret")})
	// Each examination has a server of its own, which does not take many of them
	// from one address at once.
	server := func(t *testing.T, args ...string) (url string) {
		_, url = startServer(t, args...)
		return url
	}
	for _, tt := range []struct {
		name string
		args func(t *testing.T) []string
		exit int
		code string // of the first finding
		says string
	}{
		{"all well", func(t *testing.T) []string { return []string{server(t)} }, exitDone, "", "All is well: nothing on the way disturbs adit."},
		{"by flag", func(t *testing.T) []string { return []string{"--server", server(t)} }, exitDone, "", "ok       buffering"},
		{"nobody there", func(*testing.T) []string { return []string{"ws://127.0.0.1:1"} }, exitFailed, "unreachable", "FAILED   dial       port 1: 127.0.0.1: connection refused"},
		{"turned off", func(t *testing.T) []string { return []string{server(t, "--doctor=false")} }, exitFailed, "no-doctor", "--doctor=false"},
		{"no WebSockets", func(t *testing.T) []string {
			return []string{"ws://" + hostile.NewStripper(t, strings.TrimPrefix(server(t), "ws://"))}
		}, exitFailed, "upgrade-stripped", "takes the Upgrade out"},
		{"proxy", func(t *testing.T) []string { return []string{"--proxy", "http://" + login.Addr, server(t)} },
			exitFailed, "proxy-auth", "FAILED   proxy      http://" + login.Addr + " (--proxy"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			exit, out, errOut := call(t, nil, append([]string{"doctor"}, tt.args(t)...)...)
			if exit != tt.exit || errOut != "" || !strings.Contains(out, tt.says) {
				t.Errorf("exit code %d, errors %q, and:\n%s\nwant %d, none, and %q", exit, errOut, out, tt.exit, tt.says)
			}
			for line := range strings.Lines(out) {
				if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 {
					t.Errorf("a line has %d columns, want at most 80: %q", n, line)
				}
			}
		})
		t.Run(tt.name+", for machines", func(t *testing.T) {
			t.Parallel()
			exit, out, errOut := call(t, nil, append([]string{"doctor", "--json"}, tt.args(t)...)...)
			var report struct {
				Status   string
				Findings []struct{ Code, Culprit, Remedy string }
			}
			if err := json.Unmarshal([]byte(out), &report); err != nil || exit != tt.exit || errOut != "" {
				t.Fatalf("exit code %d, errors %q, %v; want %d, none, JSON: %s", exit, errOut, err, tt.exit, out)
			}
			code := ""
			if len(report.Findings) > 0 {
				code = report.Findings[0].Code
			}
			if code != tt.code || (report.Status == "ok") != (tt.exit == exitDone) {
				t.Errorf("the culprit is %q, and all is %s; want %q", code, report.Status, tt.code)
			}
		})
	}
	for _, args := range [][]string{{"doctor", "ftp://x"}, {"doctor", "ws://a", "ws://b"}, {"doctor", "ws://me:hunter2@a"}} {
		if exit, _, errOut := call(t, nil, args...); exit != exitUsage || strings.Contains(errOut, "hunter2") {
			t.Errorf("adit %v: exit code %d, %q; want %d", args, exit, errOut, exitUsage)
		}
	}
}

// On a terminal the last line says what is being looked at, until that is done.
func TestDoctorShowsWhatItWaitsFor(t *testing.T) {
	t.Parallel()
	_, url := startServer(t)
	terminal, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	c := newCommand(t)
	c.person, c.terminal = true, terminal
	c.start(t, "doctor", url)
	out := c.out.wait(t, `(?s)(.*carriers: measuring each).*All is well`)
	if want := "...      buffering: a slow response\r\x1b[K  ok       buffering "; !strings.Contains(out, want) {
		t.Errorf("got %q, want %q in it", out, want)
	}
}

// What fails because it was told to stop is nothing that it has found.
func TestDoctorStops(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	c := newCommand(t).start(t, "doctor", "ws://"+silent.Addr().String())
	c.out.wait(t, `-        tls `)
	if code := c.stop(); code != exitFailed || strings.Contains(c.out.String(), "FAILED") || c.err.String() != "adit: stopped before the end\n" {
		t.Errorf("got exit code %d, %q and %q, want that it was stopped, and no more", code, c.out, c.err)
	}
}
