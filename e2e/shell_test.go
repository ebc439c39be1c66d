package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The scripts of adit completion, in the shells that they are for.
func TestShellsComplete(t *testing.T) {
	t.Parallel()
	need(t, "go")
	bin := filepath.Dir(binary)
	name := filepath.Base(binary)
	const limit = 30 * time.Second
	for _, tt := range []struct{ shell, script string }{
		{"bash", `
			source /usr/share/bash-completion/bash_completion
			source <(adit completion bash)
			COMP_WORDS=(adit server --log-format '')
			COMP_LINE='adit server --log-format ' COMP_POINT=25 COMP_CWORD=3 COMP_TYPE=9
			__start_adit
			printf '%s\n' "${COMPREPLY[@]}"`},
		{"zsh", `
			autoload -Uz compinit
			compinit -D -u
			source <(adit completion zsh)
			whence -w _adit
			adit __complete server --log-format ''`},
		{"fish", `
			adit completion fish | source
			complete -C 'adit server --log-format '`},
	} {
		t.Run(tt.shell, func(t *testing.T) {
			t.Parallel()
			shell := need(t, tt.shell)
			if _, err := os.Stat("/usr/share/bash-completion/bash_completion"); tt.shell == "bash" && err != nil {
				missing(t, "the package bash-completion")
			}
			dir := t.TempDir()
			if err := os.Symlink(filepath.Join(bin, name), filepath.Join(dir, "adit")); err != nil {
				t.Fatal(err)
			}
			home := "HOME=" + dir
			out := run(t, limit, "env", home, "PATH="+dir+":"+os.Getenv("PATH"), shell, "-c", tt.script)
			for _, want := range []string{"auto", "text", "json"} {
				if !regexp.MustCompile(`(?m)^` + want + `\b`).MatchString(out) {
					t.Errorf("no %s in\n%s", want, out)
				}
			}
			if tt.shell == "zsh" && !strings.Contains(out, "_adit: function") {
				t.Errorf("there is no function for zsh:\n%s", out)
			}
		})
	}
}

// Each manual page is one without a warning, and says what the command does.
func TestManualPages(t *testing.T) {
	t.Parallel()
	need(t, "go")
	groff := need(t, "groff")
	dir := t.TempDir()
	run(t, 30*time.Second, binary, "man", dir)
	pages, err := filepath.Glob(filepath.Join(dir, "*.1"))
	if err != nil || len(pages) < 10 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	for _, page := range pages {
		if out := run(t, 30*time.Second, "sh", "-c", `exec "$0" -ww -mandoc -Tutf8 -z "$1" 2>&1`, groff, page); out != "" {
			t.Errorf("%s: %s", filepath.Base(page), out)
		}
	}
	text := run(t, 30*time.Second, "sh", "-c", `"$0" -mandoc -Tutf8 -P-c "$1"`, groff, filepath.Join(dir, "adit-server.1"))
	for _, want := range []string{"adit-server - Run the public server", "--trusted-proxies", "EXIT STATUS", "adit(1)"} {
		if !strings.Contains(regexp.MustCompile(`.\x08`).ReplaceAllString(text, ""), want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, os.Getenv("HOME")+"/") {
		t.Error("a page has the home directory of who made it")
	}
}
