package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestServiceInstall(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	unit := filepath.Join(root, "etc/systemd/system/adit-shop.service")
	args := []string{"service", "install", "agent", "--name", "adit-shop", "--config", "/etc/adit/shop.yaml", "--binary", "/usr/bin/adit", "--root", root}
	for range 2 { // it may write its own again
		if code, _, errOut := call(t, nil, args...); code != exitDone {
			t.Fatalf("got exit code %d, want %d: %s", code, exitDone, errOut)
		}
	}
	text, err := os.ReadFile(unit)
	if err != nil {
		t.Fatal(err)
	}
	if want := "ExecStart=/usr/bin/adit agent --config /etc/adit/shop.yaml\n"; !strings.Contains(string(text), want) {
		t.Errorf("the unit is %s, want %s in it", text, want)
	}
	if _, err := os.Stat(filepath.Join(root, "etc/sysusers.d/adit.conf")); err != nil {
		t.Error(err)
	}
	if code, _, errOut := call(t, nil, "service", "uninstall", "agent", "--name", "adit-shop", "--root", root); code != exitDone {
		t.Fatalf("got exit code %d, want %d: %s", code, exitDone, errOut)
	}
	if _, err := os.Stat(unit); !os.IsNotExist(err) {
		t.Errorf("the unit is there after it was removed: %v", err)
	}
}

func TestServiceDryRun(t *testing.T) {
	t.Parallel()
	code, out, errOut := call(t, nil, "service", "install", "server", "--dry-run")
	if code != exitDone {
		t.Fatalf("got exit code %d, want %d: %s", code, exitDone, errOut)
	}
	for _, want := range []string{
		"write /etc/systemd/system/adit-server.service", "write /etc/sysusers.d/adit.conf", "    NoNewPrivileges=yes",
		"run systemctl daemon-reload", "run systemctl enable --now adit-server.service",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("it says %s, want %q in it", out, want)
		}
	}
}

func TestServiceRefuses(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	foreign := filepath.Join(root, "etc/systemd/system/adit-server.service")
	if err := os.MkdirAll(filepath.Dir(foreign), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(foreign, []byte("[Service]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		args []string
		code int
		want string
	}{
		"another role":            {[]string{"install", "inbox"}, exitUsage, `service "inbox": server and agent are allowed`},
		"a name with a path":      {[]string{"install", "agent", "--name", "../x"}, exitUsage, `--name "../x"`},
		"a relative config":       {[]string{"install", "agent", "--config", "adit.yaml"}, exitUsage, `--config "adit.yaml": want an absolute path`},
		"a relative binary":       {[]string{"install", "agent", "--binary", "adit", "--root", root}, exitUsage, `--binary "adit": want an absolute path`},
		"somebody else's unit":    {[]string{"install", "server", "--binary", "/usr/bin/adit", "--root", root}, exitFailed, "was not written by adit service install"},
		"to remove somebody's":    {[]string{"uninstall", "server", "--root", root}, exitFailed, "it stays"},
		"to remove what is not":   {[]string{"uninstall", "agent", "--root", root}, exitFailed, "there is no service adit-agent"},
		"to install without role": {[]string{"install"}, exitUsage, "server|agent is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, _, errOut := call(t, nil, append([]string{"service"}, tt.args...)...)
			if code != tt.code || !strings.Contains(errOut, tt.want) {
				t.Errorf("got exit code %d and %q, want %d and %q", code, errOut, tt.code, tt.want)
			}
		})
	}
	if text, err := os.ReadFile(foreign); err != nil || string(text) != "[Service]\n" {
		t.Errorf("somebody else's unit is %q, %v afterwards", text, err)
	}
}

func TestOwnedByRoot(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can make files of root")
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "adit")
	if err := os.WriteFile(file, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := ownedByRoot(file); err != nil {
		t.Errorf("root's file: %v", err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := ownedByRoot(file); err == nil {
		t.Error("a file in a folder that everybody can write is taken for root's")
	}
}
