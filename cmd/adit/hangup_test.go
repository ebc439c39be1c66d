package main

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

func TestWatchFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first")
	ctx, cancel := context.WithCancel(t.Context())
	changed := make(chan struct{})
	var wg sync.WaitGroup
	seen := lookAt(path)
	wg.Go(func() { watchFile(ctx, path, seen, time.Millisecond, changed) })
	defer wg.Wait()
	defer cancel()
	told := func(what string) {
		t.Helper()
		select {
		case <-changed:
		case <-time.After(patience):
			t.Errorf("%s: nobody is told", what)
		}
	}
	write("second, which is longer")
	told("written to")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	write("third")
	told("written anew")
	write("fourth")
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path+".old", path); err != nil {
		t.Fatal(err)
	}
	told("replaced by a link to another one")
	cancel()
	wg.Wait()
	select {
	case <-changed:
		t.Error("told without a change")
	default:
	}
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
