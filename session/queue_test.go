package session_test

import (
	"io"
	"testing"

	"adit/session"
)

// TryQueue takes all or nothing: nothing where Write would wait or fail.
func TestTryQueue(t *testing.T) {
	t.Parallel()
	p := memSessions(t, nil, &session.Options{Window: 64 << 10})
	local, remote := p.open(t, "")
	if !local.TryQueue([]byte("hello ")) || !local.TryQueue(nil) || !local.TryQueue([]byte("world")) {
		t.Fatal("TryQueue = false with room for it")
	}
	local.SendQueued()
	buf := make([]byte, 11)
	if _, err := io.ReadFull(remote, buf); err != nil || string(buf) != "hello world" {
		t.Fatalf("got %q, %v, want hello world", buf, err)
	}

	if local.TryQueue(make([]byte, 64<<10)) { // more than is left
		t.Error("TryQueue of more than the credit = true")
	}
	sent := 0
	for ; local.TryQueue(make([]byte, 1000)); sent += 1000 {
		if sent > 64<<10 {
			t.Fatalf("TryQueue goes on after %d bytes, with a window of 64 KiB", sent)
		}
		local.SendQueued()
	}
	if sent < 60<<10 {
		t.Errorf("TryQueue has taken %d bytes, want nearly 64 KiB", sent)
	}
	if _, err := io.ReadFull(remote, make([]byte, sent)); err != nil {
		t.Fatal(err)
	}
	settle(t, "there is room again", func() bool { return local.TryQueue([]byte("x")) })

	local.Close()
	if local.TryQueue([]byte("y")) {
		t.Error("TryQueue of a closed stream = true")
	}
	local.SendQueued() // which is no matter
	if got, err := io.ReadAll(remote); string(got) != "x" || err != nil {
		t.Errorf("got %q, %v, want x and the end", got, err)
	}
}
