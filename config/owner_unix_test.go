//go:build unix

package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"adit/config"
)

func TestOwner(t *testing.T) {
	t.Parallel()
	const plain, secret = "listen: a\n", "basic-auth: a:b\n"
	for _, tt := range []struct {
		name, text      string
		mode, dir       os.FileMode
		want            string // in the error; empty for none
		uid, gid        int    // of the file; 0 for the process's own
		link, needsRoot bool
	}{
		{name: "private", text: secret, mode: 0o600},
		{name: "readable", text: plain, mode: 0o644},
		{name: "everybody writes", text: plain, mode: 0o646, want: "chmod go-w"},
		{name: "a group writes", text: plain, mode: 0o664, gid: 12345, needsRoot: true, want: "chmod go-w"},
		{name: "secret that everybody reads", text: secret, mode: 0o604, want: "chmod 600"},
		{name: "secret that a group reads", text: secret, mode: 0o640, gid: 12345, needsRoot: true, want: "chmod 600"},
		{name: "somebody else's", text: plain, mode: 0o600, uid: 12345, needsRoot: true, want: "belongs to user 12345"},
		{name: "folder of everybody", text: plain, mode: 0o600, dir: 0o777, want: "chmod o-w"},
		{name: "sticky folder", text: plain, mode: 0o600, dir: 0o777 | os.ModeSticky},
		{name: "link into a folder of everybody", text: plain, mode: 0o600, dir: 0o777, link: true, want: "chmod o-w"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.needsRoot && os.Geteuid() != 0 {
				t.Skip("needs root")
			}
			dir := t.TempDir()
			path := filepath.Join(dir, "x.yaml")
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if tt.uid != 0 || tt.gid != 0 {
				if err := os.Chown(path, tt.uid, tt.gid); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Chmod(path, tt.mode); err != nil {
				t.Fatal(err)
			}
			if tt.dir != 0 {
				if err := os.Chmod(dir, tt.dir); err != nil {
					t.Fatal(err)
				}
			}
			if tt.link {
				link := filepath.Join(t.TempDir(), "link.yaml")
				if err := os.Symlink(path, link); err != nil {
					t.Fatal(err)
				}
				path = link
			}
			file, err := config.Read(path)
			if err == nil {
				err = file.Top.Apply(newFlags().set)
			}
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if err != nil && (!strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "a:b")) {
				t.Errorf("got %v, want the file's name and not the secret", err)
			}
		})
	}
}

// A pipe without a writer is refused and not waited for.
func TestPipe(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Read(path); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("got %v", err)
	}
}
