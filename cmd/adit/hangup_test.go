package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWatchFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(path, "1")
	w := watchFile(path)
	looks := func(what string, want ...bool) {
		t.Helper()
		for i, want := range want {
			if got := w.changed(); got != want {
				t.Errorf("%s: look %d says %v, want %v", what, i+1, got, want)
			}
		}
	}
	looks("untouched", false, false)
	write(path, "22")
	looks("being written", false)
	write(path, "333")
	looks("written", false, true, false, false)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	looks("gone", false, false, false)
	write(path, "4444")
	looks("there again", false, true, false)
	write(path+".new", "4444")
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	looks("replaced", false, true, false)
	write(path+".target", "55555")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path+".target", path); err != nil {
		t.Fatal(err)
	}
	looks("a link to another one", false, true, false)
	write(path+".target", "666666")
	looks("the other one written", false, true, false)
}

func TestHangups(t *testing.T) {
	t.Parallel()
	var h hangups
	if h.tell() {
		t.Error("somebody is told where nobody listens")
	}
	c, stop := h.listen()
	for range 3 {
		if !h.tell() {
			t.Error("nobody is told")
		}
	}
	<-c
	stop()
	if h.tell() {
		t.Error("somebody is told who has stopped to listen")
	}
}
