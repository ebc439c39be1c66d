package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// A terminal is one of tmux, in which a shell runs.
type terminal struct {
	t       *testing.T
	tmux    string
	sockets string
}

func newTerminal(t *testing.T, cols, rows int) *terminal {
	t.Helper()
	tmux := need(t, "tmux")
	sockets, err := os.MkdirTemp("", "tmux") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{t, tmux, sockets}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the terminal shows:\n%s", term.history())
		}
		term.run("kill-server")
		os.RemoveAll(sockets)
	})
	term.run("-f", "/dev/null", "new-session", "-d", "-x", fmt.Sprint(cols), "-y", fmt.Sprint(rows),
		"env", "-i", "PATH="+os.Getenv("PATH"), "HOME="+t.TempDir(), "XDG_RUNTIME_DIR="+sockets, "TERM=screen", "LANG=C.UTF-8", "PS1=$ ", "sh")
	term.until(`^\$`)
	return term
}

func (term *terminal) run(args ...string) string {
	term.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c := exec.CommandContext(ctx, term.tmux, append([]string{"-L", "adit", "-u"}, args...)...)
	c.Env = append(environ(), "TMUX_TMPDIR="+term.sockets, "LANG=C.UTF-8")
	out, err := c.CombinedOutput()
	if err != nil {
		term.t.Errorf("tmux %q: %v: %s", args, err, out)
	}
	return string(out)
}

// line types a line.
func (term *terminal) line(s string) {
	term.t.Helper()
	term.run("send-keys", "-l", s)
	term.run("send-keys", "Enter")
}

func (term *terminal) resize(cols, rows int) {
	term.t.Helper()
	term.run("resize-window", "-x", fmt.Sprint(cols), "-y", fmt.Sprint(rows))
}

// shown is what can be seen, and history that with what has scrolled out.
func (term *terminal) shown() string   { return term.run("capture-pane", "-p") }
func (term *terminal) history() string { return term.run("capture-pane", "-p", "-S", "-") }

// until waits until re matches what can be seen.
func (term *terminal) until(re string) (groups []string) {
	term.t.Helper()
	eventually(term.t, re+" on the terminal", 20*time.Second, func(context.Context) error {
		if groups = regexp.MustCompile("(?m)" + re).FindStringSubmatch(term.shown()); groups == nil {
			return errors.New("not shown")
		}
		return nil
	})
	return groups
}

// TestScreen goes through the states of an agent on a terminal, and looks at
// what a person sees.
func TestScreen(t *testing.T) {
	t.Parallel()
	term := newTerminal(t, 80, 24)
	s := startServer(t)
	s.kill()
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/missing" {
			w.WriteHeader(http.StatusNotFound)
		}
		fmt.Fprint(w, "hello")
	}))
	defer up.Close()
	site := up.Listener.Addr().String()
	visit := func(path string) {
		t.Helper()
		resp, err := s.visitor(t).Get(s.hostURL("web") + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	back := func() {
		t.Helper()
		s.start(t)
		waitAccepts(t, s.process, s.addr)
	}

	term.line("echo what was here before")
	term.line("clear; echo still here")
	term.until(`^still here\n\$`) // what is typed before the shell asks stands behind its prompt
	term.line(fmt.Sprintf("%s http %s --id web --server ws://%s --secret-file %s", binary, site, s.addr, s.secret))
	term.until(`^● waiting  ws://\S+  (again in \d+ s|trying now)$`)
	term.until(`^  ` + regexp.QuoteMeta(s.addr) + `: connection refused$`)
	term.until(`^web  -> ` + regexp.QuoteMeta(site) + `  answers$`)

	back()
	term.until(`^● connected  ws://\S+  round trip (under 1|\d+) ms$`)
	visit("/some/page")
	visit("/missing?%1b[2J%0a")
	visit("/" + strings.Repeat("long", 50))
	term.until(`^\d\d:\d\d:\d\d  GET     /some/page +200 +\S+ ms +5 B$`)
	term.until(`^\d\d:\d\d:\d\d  GET     /missing\?%1b\[2J%0a +404 `)
	term.until(`^\d\d:\d\d:\d\d  GET     /longlong\S+… +200 `)
	term.until(`^  3 requests, \d connections?, \d open$`)
	term.line("typed by mistake")
	if text := term.shown(); !strings.Contains(text, "\n"+s.hostURL("web")+"/") || strings.Contains(text, "mistake") {
		t.Errorf("want the address at the start of a line, and nothing of what was typed:\n%s", text)
	}

	for _, cols := range []int{40, 100, 60, 80} {
		term.resize(cols, 24)
		if cols == 40 {
			term.until(`^GET     /some/page +200 +\S+ ms$`)
		} else {
			term.until(`^\d\d:\d\d:\d\d  GET     /some/page +200 `)
		}
		// What scrolls out while lines are broken anew may be there twice.
		if text := term.shown(); strings.Count(text, "●") != 1 || strings.Count(text, "/some/page") != 1 {
			t.Errorf("at %d columns: want the screen once:\n%s", cols, text)
		}
	}

	s.kill()
	first := term.until(`^● reconnecting  ws://\S+  again in (\d+) s$`)[1]
	eventually(t, "the countdown", 20*time.Second, func(context.Context) error {
		if m := regexp.MustCompile(`again in (\d+) s`).FindStringSubmatch(term.shown()); m == nil || m[1] == first {
			return errors.New("it stands still")
		}
		return nil
	})
	back()
	term.until(`^● connected `)
	term.until(` \d+ reconnects?$`)

	up.Close()
	visit("/")
	term.until(`-> ` + regexp.QuoteMeta(site) + `\n? +does not answer: connection refused$`)

	term.run("send-keys", "C-c")
	term.until(`^● stopped$`)
	term.until(`^\$$`)                                // what is typed before the shell is back may be lost
	term.line(`stty -a | tr ' ' '\n' | grep -x echo`) // one line: a second prompt could stand before what is printed
	term.until(`^echo$`)
	if text := term.history(); !strings.Contains(text, s.hostURL("web")) || !strings.Contains(text, "/some/page") || !strings.Contains(text, "still here") {
		t.Errorf("want what matters to stay:\n%s", text)
	}

	wrong := filepath.Join(t.TempDir(), "wrong")
	if err := os.WriteFile(wrong, []byte("this is not the right secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	term.line("clear")
	term.line(fmt.Sprintf("%s http %s --id web --server ws://%s --secret-file %s", binary, site, s.addr, wrong))
	term.until(`^● refused  ws://\S+  again in \d+ s$`)
	term.until(`--secret-file or ADIT_TOKEN`)
	term.run("send-keys", "C-c")
	term.until(`^● stopped$`)
	term.until(`^\$$`) // what is typed before the shell is back may be lost
	_, port, _ := net.SplitHostPort(s.addr)
	term.line(fmt.Sprintf("clear; %s status; echo code $?", binary))
	term.until(`^code 1$`)
	if strings.Contains(term.shown(), port) {
		t.Errorf("want no agent:\n%s", term.shown())
	}
}
