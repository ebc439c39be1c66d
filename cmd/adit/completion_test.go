package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCompletion(t *testing.T) {
	t.Parallel()
	for _, s := range shells {
		if code, out, errOut := call(t, nil, "completion", s.name); code != exitDone || !strings.Contains(out, "adit") || errOut != "" {
			t.Errorf("completion %s: got exit code %d, %d bytes and %q", s.name, code, len(out), errOut)
		}
	}
	if code, _, errOut := call(t, nil, "completion", "tcsh"); code != exitUsage || !strings.Contains(errOut, "bash, zsh, fish") {
		t.Errorf("got exit code %d and %q", code, errOut)
	}
	// What the scripts ask for. A variable that is wrong does not matter here.
	for _, tt := range []struct {
		args string
		want []string // lines, or their beginnings
	}{
		{"ser", []string{"server\tRun the public server", "service\t", ":4"}},
		{"server --log-format ", []string{"auto", "text", "json", ":4"}},
		{"http 3000 --log-level ", []string{"debug", "info", "warn", "error", ":4"}},
		{"agent --config ", []string{"yaml", "yml", ":8"}},
		{"config example ", []string{"server", "agent", ":4"}},
		{"config check --role ", []string{"server", "agent", ":4"}},
		{"completion ", []string{"bash", "zsh", "fish", "powershell", ":4"}},
		{"server ", []string{":4"}},
		{"http ", []string{":0"}},
	} {
		args := strings.Split(tt.args, " ")
		code, out, _ := call(t, []string{"ADIT_NONSENSE=1"}, append([]string{"__complete"}, args...)...)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		ok := code == exitDone && len(lines) == len(tt.want)
		for i := range tt.want {
			ok = ok && strings.HasPrefix(lines[i], tt.want[i])
		}
		if !ok {
			t.Errorf("adit %s: got exit code %d and %q, want %q", tt.args, code, lines, tt.want)
		}
	}
}

func TestManualPages(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "man")
	home := t.TempDir()
	code, _, errOut := call(t, []string{"HOME=" + home}, "man", dir)
	if code != exitDone || errOut != "" {
		t.Fatalf("got exit code %d and %q", code, errOut)
	}
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, e := range all {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		text.Write(b)
	}
	for _, want := range []string{`.TH "ADIT\-SERVER" 1`, `.B \-\-trusted\-proxies`, `\(ti/.local/state/adit`, ".SH EXIT STATUS", ".SS \"Who may enter\"", ".B \\-\\-basic\\-auth\\-file \\fIFILE\\fR"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %s in the pages", want)
		}
	}
	if strings.Contains(text.String(), home) {
		t.Error("the pages have the home directory of who made them")
	}
	if _, err := os.Stat(filepath.Join(dir, "adit-man.1")); err == nil {
		t.Error("there is a page for a hidden command")
	}
}
