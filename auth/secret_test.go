package auth_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"adit/auth"
)

func TestSecretIsNotPrinted(t *testing.T) {
	t.Parallel()
	s := secret(t, rawOld)
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "secret", s, "nested", struct{ S auth.Secret }{s})
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "secret", s, "nested", struct{ S auth.Secret }{s})
	asJSON, err := json.Marshal(map[string]any{"v": s, "p": &s, "key": map[auth.Secret]int{s: 1}})
	if err != nil {
		t.Fatal(err)
	}
	nested := struct {
		S auth.Secret
		P *auth.Secret
		L []auth.Secret
	}{s, &s, []auth.Secret{s}}
	outputs := []string{log.String(), string(asJSON)}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%20v"} {
		outputs = append(outputs, fmt.Sprintf(verb, s), fmt.Sprintf(verb, &s), fmt.Sprintf(verb, nested))
	}
	for _, out := range outputs {
		for _, bad := range []string{rawOld, fmt.Sprintf("%x", rawOld)} {
			if strings.Contains(strings.ToLower(out), bad) {
				t.Errorf("the secret shows in %q", out)
			}
		}
	}
	if got := fmt.Sprint(s); got != "[redacted]" {
		t.Errorf("got %q, want [redacted]", got)
	}
}

func TestLoadOrCreateSecret(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a", "data")

	const servers = 8
	var wg sync.WaitGroup
	var mu sync.Mutex
	got, created := map[string]bool{}, 0
	for range servers {
		wg.Go(func() {
			s, c, err := auth.LoadOrCreateSecret(dir)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			got[s.Reveal()] = true
			if c {
				created++
			}
		})
	}
	wg.Wait()
	if len(got) != 1 || created != 1 {
		t.Errorf("%d servers at once: got %d secrets, %d created, want one", servers, len(got), created)
	}
	for s := range got {
		if !strings.HasPrefix(s, "adit_") || len(s) != len("adit_")+43 {
			t.Errorf("got secret %q, want adit_ and 43 characters", s)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("data directory: got %v, %v, want the secret alone", entries, err)
	}
	if runtime.GOOS == "windows" {
		return
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, "secret"): 0o600} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s: got mode %#o, want %#o", path, got, want)
		}
	}
}

func TestLoadSecret(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		content string
		mode    os.FileMode
		want    string // secret
		err     string // part of it
	}{
		{name: "good", content: rawOld, mode: 0o600, want: rawOld},
		{name: "read only", content: rawOld, mode: 0o400, want: rawOld},
		{name: "white space", content: "\n " + rawOld + "\r\n", mode: 0o600, want: rawOld},
		{name: "empty", content: "", mode: 0o600, err: "empty"},
		{name: "only white space", content: " \n", mode: 0o600, err: "empty"},
		{name: "too short", content: "123456789012345", mode: 0o600, err: "takes 16 to"},
		{name: "too long", content: strings.Repeat("x", 1<<20), mode: 0o600, err: "more than"},
		{name: "group reads", content: rawOld, mode: 0o640, err: "chmod 600"},
		{name: "world reads", content: rawOld, mode: 0o604, err: "chmod 600"},
		{name: "group writes", content: rawOld, mode: 0o620, err: "chmod 600"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.mode&0o077 != 0 && runtime.GOOS == "windows" {
				t.Skip("no such modes on windows")
			}
			path := filepath.Join(t.TempDir(), "s")
			if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, tt.mode); err != nil { // not subject to the umask
				t.Fatal(err)
			}
			s, err := auth.LoadSecret(path)
			if tt.err == "" {
				if err != nil || s.Reveal() != tt.want {
					t.Errorf("got %q, %v, want %q", s.Reveal(), err, tt.want)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.err) || !strings.Contains(err.Error(), path) {
				t.Errorf("got error %v, want one with %q and the path", err, tt.err)
			}
			if err != nil && strings.Contains(err.Error(), rawOld) {
				t.Errorf("the error contains the secret: %v", err)
			}
		})
	}
	if _, err := auth.LoadSecret(t.TempDir()); err == nil {
		t.Error("a directory: got no error")
	}
}

func TestLoadSecretOfSomebodyElse(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root to give a file away")
	}
	path := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(path, []byte(rawOld), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, 12345, -1); err != nil {
		t.Skip(err)
	}
	if _, err := auth.LoadSecret(path); err == nil || !strings.Contains(err.Error(), "chown") {
		t.Errorf("got error %v, want one that says chown", err)
	}
}

func TestDataDirectoryOthersCanWrite(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("no such modes on windows")
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, _, err := auth.LoadOrCreateSecret(dir); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Errorf("got error %v, want one that says chmod 700", err)
	}
}
