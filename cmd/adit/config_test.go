package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"adit/internal/testport"
	"adit/internal/testtcp"
)

func TestServerConfig(t *testing.T) {
	t.Parallel()
	file := writeFile(t, "listen: 127.0.0.1:0\ndomain: file.example.com\nsecret-file: "+writeFile(t, testSecret)+"\ntcp-ports: [2222, 3000-3009]\n")
	for _, tt := range []struct {
		name    string
		environ []string
		args    []string
		want    string
	}{
		{"file", nil, nil, "http://file.example.com:"},
		{"environment before file", []string{"ADIT_DOMAIN=env.example.com"}, nil, "http://env.example.com:"},
		{"flag before both", []string{"ADIT_DOMAIN=env.example.com"}, []string{"--domain", "flag.example.com"}, "http://flag.example.com:"},
		{"named by the environment", []string{"ADIT_CONFIG=" + file}, nil, "http://file.example.com:"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			args := []string{"server"}
			if len(tt.environ) == 0 || !strings.HasPrefix(tt.environ[0], "ADIT_CONFIG") {
				args = append(args, "--config", file)
			}
			c := newCommand(t, tt.environ...).start(t, append(args, tt.args...)...)
			c.err.wait(t, "server started")
			if got := c.err.String(); !strings.Contains(got, tt.want) {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if code := c.stop(); code != exitDone {
				t.Errorf("got exit code %d, want %d", code, exitDone)
			}
		})
	}
}

// Nothing is started with a file in which something is wrong, and all of that
// is said at once.
func TestServerConfigWrong(t *testing.T) {
	t.Parallel()
	file := writeFile(t, "listne: :80\nhold: soon\ngrace: 48h\n")
	code, out, errOut := call(t, nil, "server", "--config", file)
	want := "adit: " + file + ":1:1: listne is not known here: did you mean listen?\n" +
		"adit: " + file + ":2:7: hold: \"soon\": want a time such as 30s, 5m or 1h\n" +
		"adit: " + file + ":3:1: grace 48h0m0s: 0s to 24h are allowed\n"
	if code != exitUsage || out != "" || errOut != want {
		t.Errorf("got exit code %d, %q and\n%s\nwant %d and\n%s", code, out, errOut, exitUsage, want)
	}

	// What a flag would be told, at the place in the file; and of a flag
	// itself, as ever.
	file = writeFile(t, "\nhold: 25h\ntcp-ports:\n  - x\nlisten: nowhere\n")
	code, _, errOut = call(t, nil, "server", "--grace", "48h", "--listen", "here", "--config", file)
	want = "adit: --grace 48h0m0s: 0s to 24h are allowed\n" +
		"adit: --listen \"here\": want a port of 0 to 65535 with or without a host, such as :8080 or 127.0.0.1:8080\n"
	for _, line := range strings.SplitAfter(want, "\n") {
		if !strings.Contains(errOut, line) {
			t.Errorf("got\n%s\nwant %s", errOut, line)
		}
	}
	for _, line := range []string{file + ":2:1: hold 25h0m0s: 0s to 24h are allowed\n", file + ":3:1: tcp-ports: "} {
		if !strings.Contains(errOut, line) {
			t.Errorf("got\n%s\nwant %s", errOut, line)
		}
	}
	if code != exitUsage || strings.Contains(errOut, "nowhere") || strings.Count(errOut, "\n") != 4 {
		t.Errorf("got exit code %d and\n%s", code, errOut)
	}
}

// SIGHUP has the server read its file again. What can change does, and what
// cannot is said; a file with a mistake changes nothing.
func TestServerReload(t *testing.T) {
	t.Parallel()
	file, secret := writeFile(t, ""), writeFile(t, testSecret)
	write := func(text string) {
		text = "listen: 127.0.0.1:0\nsecret-file: " + secret + "\n" + text
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("")
	s := newCommand(t).start(t, "server", "--config", file)
	server := "ws://" + s.err.wait(t, `"server started","listen":"([^"]*)"`)
	c := newCommand(t, "ADIT_TOKEN="+testSecret).start(t, "http", site(t), "--id", "web", "--server", server)
	url := c.out.wait(t, `(http://\S+/web/) `)
	if got := get(t, url); got != "the site" {
		t.Errorf("got %q", got)
	}
	write("deny-ip: [127.0.0.0/8]\nhold: 1s\n")
	s.hangups.tell()
	s.err.wait(t, `restart.*"settings":"hold"`)
	s.err.wait(t, `"msg":"reloaded"`)
	if got := get(t, url); !strings.Contains(got, "address-not-allowed") {
		t.Errorf("after a rule against everybody: got %q", got)
	}
	write("deny-ip: [nowhere]\n")
	s.hangups.tell()
	s.err.wait(t, `not reloaded.*`+regexp.QuoteMeta(file)+`:3:1: deny-ip`)
	if got := get(t, url); !strings.Contains(got, "address-not-allowed") {
		t.Errorf("after a broken file: got %q", got)
	}
	write("")
	s.hangups.tell()
	s.err.wait(t, `(?s)"msg":"reloaded".*"msg":"reloaded"`)
	if got := get(t, url); got != "the site" {
		t.Errorf("without the rule: got %q", got)
	}
}

// Where a server forwards to, and its ports, change with its file.
func TestServerReloadForwards(t *testing.T) {
	t.Parallel()
	file, secret := writeFile(t, ""), writeFile(t, testSecret)
	first, second := testport.One(t), testport.One(t)
	target := testtcp.Serve(t, func(c net.Conn) { io.WriteString(c, "hello") })
	write := func(text string) {
		text = "listen: 127.0.0.1:0\nsecret-file: " + secret + "\n" + text
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(fmt.Sprintf("forward: ['192.0.2.1:80']\ntcp-ports: [%d]\n", first))
	s := newCommand(t).start(t, "server", "--config", file)
	server := "ws://" + s.err.wait(t, `"server started","listen":"([^"]*)"`)
	stdio := func() (int, string) {
		code, out, errOut := call(t, []string{"ADIT_TOKEN=" + testSecret}, "stdio", target, "--server", server)
		return code, out + errOut
	}
	if code, got := stdio(); code != exitFailed || !strings.Contains(got, "no rule allows this target (forbidden)") {
		t.Errorf("got %d, %q, want it forbidden", code, got)
	}
	write(fmt.Sprintf("forward: ['%s']\ntcp-ports: [%d]\nudp-ports: [%d]\nhold: 1s\n", target, second, first))
	s.hangups.tell()
	s.err.wait(t, `restart.*"settings":"hold"`)
	if code, got := stdio(); code != 0 || got != "hello" {
		t.Errorf("with another rule: got %d, %q, want hello", code, got)
	}
	newCommand(t, "ADIT_TOKEN="+testSecret).start(t, "forward", fmt.Sprintf("R:%d:%s", second, target), "--server", server, "--id", "a").out.wait(t, strconv.Itoa(int(second)))
	write("forward: []\n")
	s.hangups.tell()
	s.err.wait(t, `"msg":"port withdrawn"`)
	s.err.wait(t, `(?s)"msg":"reloaded".*"msg":"reloaded"`)
	if code, got := stdio(); code != exitFailed || !strings.Contains(got, "no rule allows this target (forbidden)") {
		t.Errorf("without a rule: got %d, %q, want it forbidden", code, got)
	}

	write("")
	s = newCommand(t).start(t, "server", "--config", file)
	s.err.wait(t, `"server started"`)
	write("forward: ['*:*']\n")
	s.hangups.tell()
	s.err.wait(t, `restart.*"settings":"forward"`)
}

// Whatever the server's secret comes from, alone, it keeps out who does not
// have it.
func TestEverySourceOfTheSecretCounts(t *testing.T) {
	t.Parallel()
	secret := writeFile(t, testSecret)
	dataDir := t.TempDir()
	if err := os.Chmod(dataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dataDir, "secret"), []byte(testSecret), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		environ []string
		args    []string
	}{
		{"flag", nil, []string{"--secret-file", secret}},
		{"environment", []string{"ADIT_SECRET_FILE=" + secret}, nil},
		{"file", nil, []string{"--config", writeFile(t, "secret-file: "+secret+"\n")}},
		{"data directory of a flag", nil, []string{"--data-dir", dataDir}},
		{"data directory of the environment", []string{"ADIT_DATA_DIR=" + dataDir}, nil},
		{"data directory of a file", nil, []string{"--config", writeFile(t, "data-dir: "+dataDir+"\n")}},
		{"systemd's state directory", []string{"STATE_DIRECTORY=" + dataDir}, nil},
		{"made at the first start", nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newCommand(t, tt.environ...).start(t, append([]string{"server", "--listen", "127.0.0.1:0"}, tt.args...)...)
			addr := s.err.wait(t, `"server started","listen":"([^"]*)"`)
			for header, want := range map[string]string{
				"":                                 "missing-credential",
				"Bearer ":                          "missing-credential",
				"Bearer not the secret of anybody": "invalid-credential",
				"Basic " + testSecret:              "missing-credential",
			} {
				req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+addr+"/_adit/connect", nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Authorization", header)
				resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if got := resp.Header.Get("Adit-Error"); resp.StatusCode != http.StatusUnauthorized || got != want {
					t.Errorf("with the Authorization %q: %d %s, want 401 %s", header, resp.StatusCode, got, want)
				}
			}
		})
	}
}
