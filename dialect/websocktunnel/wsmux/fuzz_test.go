package wsmux_test

import (
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"adit/dialect/websocktunnel/wsmux"
	"adit/internal/memnet"
	"adit/tunnel"
)

// FuzzSession lets the other side of a session send anything: it must end or go
// on, and hold no more than it may.
func FuzzSession(f *testing.F) {
	for _, name := range append(conversations, "websocktunnel/07-bad-frame.tunnel") {
		var c2s, s2c []byte
		for _, e := range load(f, name) {
			if e.fromAgent {
				c2s = append(c2s, e.raw...)
			} else {
				s2c = append(s2c, e.raw...)
			}
		}
		f.Add(c2s[:min(len(c2s), 4096)], true, false)
		f.Add(s2c[:min(len(s2c), 4096)], false, false)
		f.Add(s2c[:min(len(s2c), 4096)], false, true)
	}
	f.Fuzz(func(t *testing.T, b []byte, server, extended bool) {
		role := wsmux.Agent
		if server {
			role = wsmux.Server
		}
		conn, other := memnet.Pipe()
		s := wsmux.New(conn, role, wsmux.Options{Extended: extended, MaxStreams: 8, MaxUnaccepted: 2, MaxHeld: 1 << 20})
		s.Start(nil)
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			io.Copy(io.Discard, other)
		}()
		served := make(chan struct{})
		go func() {
			defer close(served)
			for {
				var st *wsmux.Stream
				var err error
				if server {
					st, err = s.Open(t.Context())
				} else {
					st, err = s.Accept()
				}
				switch {
				case errors.Is(err, tunnel.ErrClosed):
					return
				case err != nil:
					continue
				}
				st.SetDeadline(time.Now().Add(time.Second))
				if _, err := io.CopyN(io.Discard, st, 10); err == nil || err == io.EOF {
					io.WriteString(st, "answer")
				}
				st.Close()
			}
		}()
		other.Write(b)
		other.CloseWrite()
		select {
		case <-s.Done():
		case <-time.After(patience):
			t.Fatal("the session goes on after the end of its connection")
		}
		s.Close()
		other.Close()
		<-drained
		<-served
		if n := s.Streams(); n != 0 || !errors.Is(s.Err(), tunnel.ErrClosed) || errors.Is(s.Err(), os.ErrDeadlineExceeded) {
			t.Fatalf("ended with %d streams and %v", n, s.Err())
		}
	})
}
