package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"adit/agent"
	"adit/config"
)

// An agentFile is the config file of an agent under test.
type agentFile struct {
	path, server string
}

func newAgentFile(t *testing.T, server string) *agentFile {
	return &agentFile{writeFile(t, ""), server}
}

// write replaces the file as editors do: another one is renamed to it.
func (f *agentFile) write(t *testing.T, tunnels string) {
	t.Helper()
	text := "server: " + f.server + "\nlog-level: info\ntunnels:\n" + tunnels
	if err := os.WriteFile(f.path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(f.path+".new", f.path); err != nil {
		t.Fatal(err)
	}
}

// slowSite is the site, with a page /slow that ends when release is called.
func slowSite(t *testing.T) (addr string, release func()) {
	t.Helper()
	released := make(chan struct{})
	release = sync.OnceFunc(func() { close(released) })
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/slow" {
			io.WriteString(w, "the site")
			return
		}
		io.WriteString(w, "begin")
		http.NewResponseController(w).Flush()
		<-released
		io.WriteString(w, " and end")
	}))
	t.Cleanup(func() { release(); s.Close() })
	return s.Listener.Addr().String(), release
}

// begin asks for the slow page, and returns when it has begun. Its end is what
// the function returns.
func begin(t *testing.T, url string) (end func() string) {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := (&http.Client{Timeout: patience, Transport: tr}).Get(url + "slow")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	b := make([]byte, len("begin"))
	if _, err := io.ReadFull(resp.Body, b); err != nil {
		t.Fatal(err)
	}
	return func() string {
		rest, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Errorf("the stream to %s: %v", url, err)
		}
		return string(b) + string(rest)
	}
}

// awaitClosed waits until nobody listens at addr.
func awaitClosed(t *testing.T, addr string) {
	t.Helper()
	for begin := time.Now(); time.Since(begin) < patience; {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return
		}
		c.Close()
	}
	t.Errorf("%s is open yet after %v", addr, patience)
}

func TestAgentConfig(t *testing.T) {
	t.Parallel()
	for _, more := range [][]string{nil, {"--session-per-tunnel"}} {
		t.Run(strings.Join(more, " "), func(t *testing.T) {
			t.Parallel()
			_, server := startServer(t, "--tcp-ports", "21100-21199")
			web, release := slowSite(t)
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "index.html"), []byte("in a folder"), 0o644); err != nil {
				t.Fatal(err)
			}
			file := newAgentFile(t, server)
			file.write(t, "  - http: "+web+"\n    id: web\n  - tcp: "+web+"\n    id: raw\n  - http: "+dir+"\n    id: files\n")
			c := newCommand(t, "ADIT_TOKEN="+testSecret).start(t, append([]string{"agent", "--config", file.path}, more...)...)
			c.out.wait(t, `/web/ `)
			raw := "http://" + c.out.wait(t, `tcp://(\S+) `) + "/"
			base := c.out.wait(t, `(http://\S+/)files/ `)
			for _, tt := range []struct{ url, want string }{{base + "web/", "the site"}, {raw, "the site"}, {base + "files/", "in a folder"}} {
				if got := get(t, tt.url); got != tt.want {
					t.Errorf("GET %s: got %q, want %q", tt.url, got, tt.want)
				}
			}

			// A stream of a tunnel that stays, and one of a tunnel that goes.
			ends := []func() string{begin(t, base+"web/"), begin(t, raw)}
			file.write(t, "  - http: "+web+"\n    id: web\n  - http: "+dir+"\n    id: more\n    listing: true\n")
			c.hangups.tell()
			c.out.wait(t, `/more/ `)
			if got := get(t, base+"more/"); got != "in a folder" {
				t.Errorf("GET more: got %q", got)
			}
			awaitClosed(t, strings.TrimSuffix(strings.TrimPrefix(raw, "http://"), "/"))
			release()
			for _, end := range ends {
				if got := end(); got != "begin and end" {
					t.Errorf("a stream that was open over the change: got %q", got)
				}
			}

			// A broken file changes nothing, and neither does one that is gone.
			file.write(t, "  - http: "+web+"\n    id: web\n  - https: "+web+"\n")
			c.hangups.tell()
			c.err.wait(t, `not reloaded.*`+regexp.QuoteMeta(file.path)+`:6:5: the tunnel has no upstream`)
			if err := os.Remove(file.path); err != nil {
				t.Fatal(err)
			}
			c.hangups.tell()
			c.err.wait(t, `not reloaded.*no such file`)
			if got := get(t, base+"more/"); got != "in a folder" {
				t.Errorf("GET more: got %q", got)
			}
			if code := c.stop(); code != exitDone {
				t.Errorf("got exit code %d, want %d", code, exitDone)
			}
		})
	}
}

// The agent notices by itself that its file has changed.
func TestAgentConfigWatched(t *testing.T) {
	t.Parallel()
	_, server := startServer(t)
	web := site(t)
	file := newAgentFile(t, server)
	file.write(t, "  - http: "+web+"\n    id: one\n")
	c := newCommand(t, "ADIT_TOKEN="+testSecret).start(t, "agent", "--config", file.path)
	c.out.wait(t, "/one/ ")
	file.write(t, "  - http: "+web+"\n    id: two\n")
	if got := get(t, c.out.wait(t, `(http://\S+/two/) `)); got != "the site" {
		t.Errorf("got %q", got)
	}

	// What can only change with a restart is said.
	file.server = "wss://elsewhere.example.com"
	file.write(t, "  - http: "+web+"\n    id: three\n")
	c.out.wait(t, "/three/ ")
	c.err.wait(t, `restart.*"settings":"server"`)

	// A rule for all tunnels counts at once.
	file.write(t, "  - http: "+web+"\n    id: three\ndeny-ip: 127.0.0.0/8\n")
	c.hangups.tell()
	c.err.wait(t, `(?s)reloaded.*reloaded.*"told by SIGHUP".*"msg":"reloaded"`)
	for begin := time.Now(); ; {
		got := get(t, c.out.wait(t, `(http://\S+/three/) `))
		if strings.Contains(got, "address-not-allowed") {
			break
		}
		if time.Since(begin) > patience {
			t.Fatalf("a visitor who is denied gets %q", got)
		}
	}
	if strings.Contains(c.err.String(), `"settings":"deny-ip`) {
		t.Error("a rule for all tunnels is said to wait for a restart")
	}
}

// A tunnel that the server refuses does not take the others with it.
func TestAgentConfigRefused(t *testing.T) {
	t.Parallel()
	_, server := startServer(t)
	web := site(t)
	file := newAgentFile(t, server)
	file.write(t, "  - http: "+web+"\n    id: one\n")
	c := newCommand(t, "ADIT_TOKEN="+testSecret).start(t, "agent", "--config", file.path)
	url := c.out.wait(t, `(http://\S+/one/) `)
	file.write(t, "  - http: "+web+"\n    id: one\n  - tcp: "+web+"\n    id: raw\n    port: 22\n")
	c.hangups.tell()
	c.out.wait(t, `raw refused, trying again: port 22`)
	if got := get(t, url); got != "the site" {
		t.Errorf("got %q", got)
	}
}

func TestTunnelsOfFile(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, text string
		want       []string // lines of the error, each after "x.yaml:"
	}{
		{"none", "server: x\n", []string{`1:1: tunnels is missing: want a list of what to expose, such as "- http: 3000"`}},
		{"empty", "tunnels: []\n", []string{`1:1: tunnels is empty: want at least one, such as "- http: 3000"`}},
		{"no list", "tunnels: 3000\n", []string{"1:10: tunnels: want a list, each element with settings of its own, but this is a single value"}},
		{"all problems", "tunnels:\n" +
			"  - id: web\n" +
			"  - http: 3000\n    tcp: 22\n" +
			"  - http: 0\n    id: zero\n" +
			"  - http: 3000\n    id: Web\n" +
			"  - http: 3000\n    prot: 1\n" +
			"  - http: 3000\n    port: 1\n" +
			"  - tcp: 22\n    port: 70000\n" +
			"  - http: ./nonexistent\n" +
			"  - http: [3000]\n" +
			"  - tcp: 22\n    id: a\n    server: x\n",
			[]string{
				"2:5: the tunnel has no upstream: want one of ",
				"4:5: tcp: the tunnel has http already: it is one or the other",
				`5:5: upstream "0" has the port "0": 1 to 65535 are allowed`,
				`8:5: id: id "Web" has 'W' at byte 0: only a-z, 0-9 and '-' are allowed`,
				"10:5: prot is not known here",
				"12:5: port is not known here",
				`14:11: port: "70000": want a whole number from 0 to 65535`,
				`15:5: folder "./nonexistent": no such file or directory`,
				"16:11: http: want text, but this is a list",
				"19:5: server is not known here",
			}},
		{"same name", "tunnels:\n  - http: 3000\n    id: a\n  - tcp: 3000\n    id: a\n  - tcp: 3001\n    id: a\n  - http: 3001\n    id: a\n", []string{
			`8:5: the tunnel at x.yaml:2:5 has the same id "a" and public address: give one of them another`}},
		{"same port", "tunnels:\n  - tcp: 3000\n    id: a\n    port: 1\n  - tcp: 3001\n    id: a\n    port: 1\n", []string{
			`5:5: the tunnel at x.yaml:2:5 has the same id "a" and public address: give one of them another`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			file, err := config.Parse("x.yaml", []byte(tt.text))
			if err != nil {
				t.Fatal(err)
			}
			tf := tunnelFile{p: &program{}}
			tunnels, err := tf.tunnels(file.Top, pflag.NewFlagSet("agent", pflag.ContinueOnError))
			all := config.Problems(err)
			for i, e := range all {
				if i >= len(tt.want) || !strings.HasPrefix(e.Error(), "x.yaml:"+tt.want[i]) {
					t.Errorf("got the problem %v", e)
				}
			}
			if len(all) != len(tt.want) || tunnels != nil {
				t.Errorf("got %d problems and %v, want %d and no tunnels", len(all), tunnels, len(tt.want))
			}
		})
	}
}

// A tunnel whose settings stay keeps its upstream, and no other does.
func TestTunnelsOfFileStay(t *testing.T) {
	t.Parallel()
	tf := tunnelFile{p: &program{}}
	load := func(text string) []*agent.Upstream {
		t.Helper()
		file, err := config.Parse("x.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		tunnels, err := tf.tunnels(file.Top, pflag.NewFlagSet("agent", pflag.ContinueOnError))
		if err != nil {
			t.Fatal(err)
		}
		var ups []*agent.Upstream
		for _, tn := range tunnels {
			ups = append(ups, tn.Upstream)
		}
		return ups
	}
	dir := t.TempDir()
	first := load("tunnels:\n  - {http: 3000, id: a}\n  - {http: " + dir + ", id: b}\n  - {http: 3000, id: c}\n")
	second := load("tunnels:\n  - {id: b, http: " + dir + "}\n  - {http: '3000', id: a}\n  - {http: 3000, id: d}\n")
	if second[0] != first[1] || second[1] != first[0] {
		t.Error("a tunnel that has not changed has another upstream")
	}
	third := load("tunnels:\n  - {http: " + dir + ", id: b, listing: true}\n  - {http: 3001, id: a}\n")
	if third[0] == second[0] || third[1] == second[1] {
		t.Error("a tunnel that has changed has the upstream that it had")
	}
}

// Flags of the agent that are a tunnel's too count for all tunnels.
func TestInherit(t *testing.T) {
	t.Parallel()
	newSet := func() (*pflag.FlagSet, *[]string, *string) {
		fl := pflag.NewFlagSet("x", pflag.ContinueOnError)
		return fl, fl.StringSlice("allow-ip", nil, ""), fl.String("rate", "", "")
	}
	for _, tt := range []struct {
		name      string
		args      []string
		top, own  string
		allow     string
		rate      string
		wantError string
	}{
		{name: "from the top of the file", top: "allow-ip: [a, b]\nrate: 1/s\n", own: "rate: 2/s\n", allow: "a b", rate: "2/s"},
		{name: "from a flag", args: []string{"--allow-ip", "c", "--rate=3/s"}, top: "allow-ip: [a]\n", own: "{}", allow: "c", rate: "3/s"},
		{name: "flag against a tunnel's own", args: []string{"--rate=3/s"}, top: "{}", own: "rate: 2/s\n",
			wantError: "own.yaml:1:1: rate is set by --rate or ADIT_RATE too: want one of them"},
		{name: "flag before the top, against a tunnel's own", args: []string{"--rate=3/s"}, top: "rate: 1/s\n", own: "rate: 2/s\n",
			wantError: "own.yaml:1:1: rate is set by --rate or ADIT_RATE too: want one of them"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			all, _, _ := newSet()
			if err := all.Parse(tt.args); err != nil {
				t.Fatal(err)
			}
			own, allow, rate := newSet()
			section := func(name, text string, fl *pflag.FlagSet) *config.Section {
				file, err := config.Parse(name, []byte(text))
				if err != nil {
					t.Fatal(err)
				}
				if err := file.Top.Apply(fl); err != nil {
					t.Fatal(err)
				}
				return file.Top
			}
			top := section("top.yaml", tt.top, all)
			err := inherit(top, section("own.yaml", tt.own, own), all, own)
			if tt.wantError != "" {
				if err == nil || err.Error() != tt.wantError {
					t.Errorf("got %v, want %s", err, tt.wantError)
				}
				return
			}
			if err != nil || strings.Join(*allow, " ") != tt.allow || *rate != tt.rate {
				t.Errorf("got %v, %v, %v; want %+v", err, *allow, *rate, tt)
			}
		})
	}
}
