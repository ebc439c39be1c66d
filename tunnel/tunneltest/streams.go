package tunneltest

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"adit/tunnel"
)

// expectBytes reads n bytes of any value.
func (p *pair) expectBytes(c net.Conn, n int) {
	p.Helper()
	if _, err := io.ReadFull(c, make([]byte, n)); err != nil {
		p.Fatalf("Read: %v", err)
	}
}

// expectEOF reads from c, which has to be at its end.
func (p *pair) expectEOF(c net.Conn) {
	p.Helper()
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		p.Fatalf("Read at the end: got %d, %v, want 0, EOF", n, err)
	}
}

// writeUntilError writes to c until that fails, and returns nil if 256 MiB
// went through.
func writeUntilError(c net.Conn) error {
	buf := make([]byte, 32<<10)
	for range 256 << 20 / len(buf) {
		if _, err := c.Write(buf); err != nil {
			return err
		}
	}
	return nil
}

// wantError wants an error other than that of the deadline that every stream
// of a test has.
func (p *pair) wantError(what string, err error) {
	p.Helper()
	switch {
	case err == nil:
		p.Errorf("%s: got no error, want one", what)
	case errors.Is(err, os.ErrDeadlineExceeded):
		p.Errorf("%s: hung until its deadline", what)
	}
}

func testHalfClose(p *pair) {
	p.bothWays(func(p *pair, from, to net.Conn) {
		hc, ok := from.(tunnel.HalfCloser)
		if !ok {
			p.Skip("the dialect's streams are no tunnel.HalfCloser")
		}
		if _, err := io.WriteString(from, "request"); err != nil {
			p.Fatalf("Write: %v", err)
		}
		if err := hc.CloseWrite(); err != nil {
			p.Fatalf("CloseWrite: %v", err)
		}
		if _, err := from.Write([]byte("x")); err == nil {
			p.Error("Write after CloseWrite: got no error")
		}
		p.expect(to, "request")
		p.expectEOF(to)

		const size = 1 << 20 // more than a first window
		sent := make(chan error, 1)
		go func() {
			err := send(to, 2, size)
			if err == nil {
				_, err = endWriting(to)
			}
			sent <- err
		}()
		if err := receive(from, 2, size, true); err != nil {
			p.Errorf("the other direction after CloseWrite: %v", err)
		}
		if err := await(p, sent, "send"); err != nil {
			p.Errorf("the other direction after CloseWrite: %v", err)
		}
		p.expectEOF(from)
	})
	p.talkOnNewStream()
}

func testBytesBeforeEnd(p *pair) {
	const size = 3<<20 + 1
	for _, end := range []struct {
		name string
		f    func(net.Conn) error
	}{
		{"Close", net.Conn.Close},
		{"CloseWrite", func(c net.Conn) error { _, err := endWriting(c); return err }},
	} {
		p.Run(end.name, func(t *testing.T) {
			sub := &pair{T: t, tun: p.tun, ln: p.ln, ctx: p.ctx}
			sub.bothWays(func(p *pair, from, to net.Conn) {
				if _, ok := from.(tunnel.HalfCloser); end.name == "CloseWrite" && !ok {
					p.Skip("the dialect's streams are no tunnel.HalfCloser")
				}
				sent := make(chan error, 1)
				go func() {
					err := send(from, 3, size)
					if err == nil {
						err = end.f(from)
					}
					sent <- err
				}()
				if err := receive(to, 3, size, true); err != nil {
					p.Error(err)
				}
				if err := await(p, sent, "send"); err != nil {
					p.Error(err)
				}
			})
		})
	}
}

func testZeroWrite(p *pair) {
	p.bothWays(func(p *pair, from, to net.Conn) {
		for _, buf := range [][]byte{nil, {}} {
			if n, err := from.Write(buf); n != 0 || err != nil {
				p.Errorf("Write of nothing: got %d, %v, want 0, nil", n, err)
			}
		}
		if _, err := from.Write([]byte("x")); err != nil {
			p.Fatalf("Write: %v", err)
		}
		got := make([]byte, 8)
		if n, err := to.Read(got); n != 1 || err != nil || got[0] != 'x' {
			p.Errorf("Read: got %q, %v, want \"x\"", got[:n], err)
		}
	})
}

func testFarSideGone(p *pair) {
	p.bothWays(func(p *pair, from, to net.Conn) {
		if _, ok := to.(tunnel.Resetter); !ok {
			p.Skip("the dialect cannot tell a writer to stop: its streams are no tunnel.Resetter")
		}
		failed := make(chan error, 1)
		go func() { failed <- writeUntilError(from) }()
		p.expectBytes(to, 1)
		if err := to.Close(); err != nil {
			p.Errorf("Close: %v", err)
		}
		p.wantError("Write to a stream that the far side closed", await(p, failed, "Write"))
		to.Close()
		if _, err := to.Read(make([]byte, 1)); err == nil {
			p.Error("Read after Close: got no error")
		}
		if _, err := to.Write([]byte("x")); err == nil {
			p.Error("Write after Close: got no error")
		}
	})
	p.talkOnNewStream()
}

func testReset(p *pair) {
	for _, c := range []struct {
		name   string
		code   tunnel.ResetCode
		reason string
	}{
		{"with reason", tunnel.ResetUpstream, "read 127.0.0.1:80: connection reset by peer"},
		{"without reason", tunnel.ResetCancelled, ""},
	} {
		p.Run(c.name, func(t *testing.T) {
			sub := &pair{T: t, tun: p.tun, ln: p.ln, ctx: p.ctx}
			sub.bothWays(func(p *pair, from, to net.Conn) {
				r, ok := from.(tunnel.Resetter)
				if !ok {
					p.Skip("the dialect's streams are no tunnel.Resetter")
				}
				p.talk(from, to, "before")
				if err := r.Reset(c.code, c.reason); err != nil {
					p.Fatalf("Reset: %v", err)
				}
				_, err := io.Copy(io.Discard, struct{ io.Reader }{to})
				wantReset(p.T, "Read", err, c.code, c.reason)
				wantReset(p.T, "Write", writeUntilError(to), c.code, c.reason)
				if _, err := from.Read(make([]byte, 1)); err == nil || err == io.EOF {
					p.Errorf("Read at the side that reset: got %v, want an error that is not EOF", err)
				}
				if _, err := from.Write([]byte("x")); err == nil {
					p.Error("Write at the side that reset: got no error")
				}
				from.Close()
			})
		})
	}
	p.talkOnNewStream()
}

func testResetUnblocks(p *pair) {
	p.bothWays(func(p *pair, from, to net.Conn) {
		r, ok := to.(tunnel.Resetter)
		if !ok {
			p.Skip("the dialect's streams are no tunnel.Resetter")
		}
		wrote, read := make(chan error, 1), make(chan error, 1)
		go func() { wrote <- writeUntilError(from) }()
		go func() {
			_, err := from.Read(make([]byte, 1))
			read <- err
		}()
		p.expectBytes(to, 1)
		if err := r.Reset(tunnel.ResetTimeout, "too slow"); err != nil {
			p.Fatalf("Reset: %v", err)
		}
		wantReset(p.T, "Write", await(p, wrote, "Write"), tunnel.ResetTimeout, "too slow")
		wantReset(p.T, "Read", await(p, read, "Read"), tunnel.ResetTimeout, "too slow")
	})
	p.talkOnNewStream()
}

func wantReset(t *testing.T, what string, err error, code tunnel.ResetCode, reason string) {
	t.Helper()
	reset, ok := errors.AsType[*tunnel.ResetError](err)
	if !ok {
		t.Errorf("%s: got error %v, want a *tunnel.ResetError", what, err)
		return
	}
	if reset.Code != code || reset.Reason != reason {
		t.Errorf("%s: got %v %q, want %v %q", what, reset.Code, reset.Reason, code, reason)
	}
}

func testDeadlines(p *pair) {
	other, otherFar := p.open()
	p.bothWays(func(p *pair, from, to net.Conn) {
		// A deadline that passes wakes a Read that waits.
		to.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if n, err := to.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			p.Errorf("Read: got %d, %v, want 0, %v", n, err, os.ErrDeadlineExceeded)
		}
		// So does one that is set while the Read waits.
		to.SetReadDeadline(time.Time{})
		read := make(chan error, 1)
		go func() {
			_, err := to.Read(make([]byte, 1))
			read <- err
		}()
		to.SetReadDeadline(time.Unix(1, 0))
		if err := await(p, read, "Read"); !errors.Is(err, os.ErrDeadlineExceeded) {
			p.Errorf("Read: got error %v, want %v", err, os.ErrDeadlineExceeded)
		}
		// A deadline that is lifted is forgotten, and no byte is lost to it.
		if _, err := io.WriteString(from, "late"); err != nil {
			p.Fatalf("Write: %v", err)
		}
		to.SetReadDeadline(time.Now().Add(patience))
		p.expect(to, "late")

		// A Write that waits for the reader counts what it got rid of.
		from.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
		sent := 0
		for {
			n, err := from.Write(make([]byte, 64<<10))
			sent += n
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil || sent > maxBuffered {
				p.Fatalf("Write nobody reads: got error %v after %d bytes, want %v", err, sent, os.ErrDeadlineExceeded)
			}
		}
		from.SetWriteDeadline(time.Now().Add(patience))
		p.expectBytes(to, sent)
		p.talk(from, to, "after")
	})
	p.talk(other, otherFar, "other stream")
}
