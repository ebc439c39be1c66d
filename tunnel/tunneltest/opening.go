package tunneltest

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"adit/tunnel"
)

// opening is a call of OpenStream that runs.
type opening struct {
	conn net.Conn
	err  error
}

// openLater calls OpenStream in a goroutine. The stream, if any, is closed
// with the test.
func (p *pair) openLater(ctx context.Context, info tunnel.StreamInfo) <-chan opening {
	ctx, cancel := context.WithCancel(ctx)
	ch := make(chan opening, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		conn, err := p.tun.OpenStream(ctx, info)
		if err == nil {
			conn.SetDeadline(time.Now().Add(patience))
			p.Cleanup(func() { conn.Close() })
		}
		ch <- opening{conn, err}
	}()
	p.Cleanup(func() { cancel(); <-ended })
	return ch
}

func testOpen(p *pair) {
	if p.tun.ID() == "" {
		p.Error("the tunnel's ID is empty")
	}
	select {
	case <-p.tun.Done():
		p.Error("Done is closed on a new tunnel")
	default:
	}
	if a, ok := p.tun.(tunnel.Availability); ok && !a.Available() {
		p.Error("a new tunnel is not available")
	}
	near, far := p.open()
	for _, c := range []net.Conn{near, far} {
		if c.LocalAddr() == nil || c.RemoteAddr() == nil {
			p.Errorf("addresses of a stream: got %v and %v, want both", c.LocalAddr(), c.RemoteAddr())
		}
	}
	p.talk(near, far, "open")
}

// talk sends a few bytes each way.
func (p *pair) talk(near, far net.Conn, msg string) {
	p.Helper()
	for _, dir := range [][2]net.Conn{{near, far}, {far, near}} {
		if n, err := io.WriteString(dir[0], msg); n != len(msg) || err != nil {
			p.Fatalf("Write: got %d, %v, want %d", n, err, len(msg))
		}
		p.expect(dir[1], msg)
	}
}

// expect reads msg from c.
func (p *pair) expect(c net.Conn, msg string) {
	p.Helper()
	got := make([]byte, len(msg))
	if n, err := io.ReadFull(c, got); err != nil || string(got) != msg {
		p.Fatalf("Read: got %q, %v, want %q", got[:n], err, msg)
	}
}

func testOpenEarly(p *pair) {
	arrived := p.arrive()
	near, err := p.early().OpenEarly(tunnel.StreamInfo{Service: "test"})
	if err != nil {
		p.Fatalf("OpenEarly: %v", err)
	}
	defer near.Close()
	near.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(near, "early"); err != nil {
		p.Fatalf("Write: %v", err)
	}
	a := await(p, arrived, "Accept")
	if a.err != nil {
		p.Fatalf("Accept: %v", a.err)
	}
	defer a.conn.Close()
	if err := answer(a.conn); err != nil {
		p.Fatalf("answer: %v", err)
	}
	p.expect(a.conn, "early")
	p.talk(near, a.conn, "later")
}

func testOpenEarlySilent(p *pair) {
	arrived := p.arrive()
	near, err := p.early().OpenEarly(tunnel.StreamInfo{})
	if err != nil {
		p.Fatalf("OpenEarly: %v", err)
	}
	defer near.Close()
	near.SetDeadline(time.Now().Add(patience))
	a := await(p, arrived, "Accept") // though nothing was written
	if a.err != nil {
		p.Fatalf("Accept: %v", a.err)
	}
	defer a.conn.Close()
	if _, err := io.WriteString(a.conn, "banner"); err != nil {
		p.Fatalf("Write: %v", err)
	}
	p.expect(near, "banner")
}

func testInfo(p *pair) {
	for _, c := range []struct {
		name string
		info tunnel.StreamInfo
	}{
		{"full", tunnel.StreamInfo{
			Service:  "web",
			Protocol: "http",
			Visitor:  netip.MustParseAddrPort("203.0.113.7:54321"),
			Local:    netip.MustParseAddrPort("198.51.100.2:443"),
			Host:     "web.example.com",
		}},
		{"IPv6", tunnel.StreamInfo{
			Protocol: "tls",
			Visitor:  netip.MustParseAddrPort("[2001:db8::1]:1"),
			Local:    netip.MustParseAddrPort("[2001:db8:ffff::2]:65535"),
			Host:     strings.Repeat("label67890.", 22) + "example.com",
		}},
		{"zero", tunnel.StreamInfo{}},
	} {
		p.Run(c.name, func(t *testing.T) {
			sub := &pair{T: t, tun: p.tun, ln: p.ln, ctx: p.ctx}
			arrived := sub.arrive()
			opened := sub.openLater(sub.ctx, c.info)
			in := sub.incoming(arrived)
			if got := in.Info(); got != c.info {
				t.Errorf("Info: got %+v, want %+v", got, c.info)
			}
			if err := in.Accept(); err != nil {
				t.Errorf("Accept: %v", err)
			}
			if o := await(sub, opened, "OpenStream"); o.err != nil {
				t.Errorf("OpenStream: %v", o.err)
			}
		})
	}
}

func testAcceptByWriting(p *pair) {
	arrived := p.arrive()
	opened := p.openLater(p.ctx, tunnel.StreamInfo{})
	in := p.incoming(arrived)
	if _, err := io.WriteString(in, "220 ready"); err != nil {
		p.Fatalf("Write: %v", err)
	}
	o := await(p, opened, "OpenStream")
	if o.err != nil {
		p.Fatalf("OpenStream: %v", o.err)
	}
	p.expect(o.conn, "220 ready")
}

var refusals = []struct {
	name   string
	code   tunnel.RefuseCode
	reason string
	want   string
}{
	{"with reason", tunnel.RefuseUpstreamRefused, "dial 127.0.0.1:80: connection refused", "dial 127.0.0.1:80: connection refused"},
	{"without reason", tunnel.RefuseUnknownService, "", ""},
	{"long reason", tunnel.RefuseBusy, strings.Repeat("b", 300), strings.Repeat("b", 256)},
}

func testRefuse(p *pair) {
	for _, c := range refusals {
		p.Run(c.name, func(t *testing.T) {
			sub := &pair{T: t, tun: p.tun, ln: p.ln, ctx: p.ctx}
			arrived := sub.arrive()
			opened := sub.openLater(sub.ctx, tunnel.StreamInfo{})
			if err := sub.incoming(arrived).Refuse(c.code, c.reason); err != nil {
				t.Fatalf("Refuse: %v", err)
			}
			o := await(sub, opened, "OpenStream")
			wantRefused(t, "OpenStream", o.err, c.code, c.want)
		})
	}
	p.talkOnNewStream()
}

func testRefuseEarly(p *pair) {
	eo := p.early()
	for _, c := range refusals {
		p.Run(c.name, func(t *testing.T) {
			sub := &pair{T: t, tun: p.tun, ln: p.ln, ctx: p.ctx}
			arrived := sub.arrive()
			near, err := eo.OpenEarly(tunnel.StreamInfo{})
			if err != nil {
				t.Fatalf("OpenEarly: %v", err)
			}
			defer near.Close()
			near.SetDeadline(time.Now().Add(patience))
			if _, err := io.WriteString(near, "GET / HTTP/1.1\r\n\r\n"); err != nil {
				t.Fatalf("Write before the answer: %v", err)
			}
			if err := sub.incoming(arrived).Refuse(c.code, c.reason); err != nil {
				t.Fatalf("Refuse: %v", err)
			}
			_, err = near.Read(make([]byte, 1))
			wantRefused(t, "Read", err, c.code, c.want)
			_, err = near.Write([]byte("x"))
			wantRefused(t, "Write", err, c.code, c.want)
		})
	}
	p.talkOnNewStream()
}

func wantRefused(t *testing.T, what string, err error, code tunnel.RefuseCode, reason string) {
	t.Helper()
	refused, ok := errors.AsType[*tunnel.RefusedError](err)
	if !ok {
		t.Errorf("%s: got error %v, want a *tunnel.RefusedError", what, err)
		return
	}
	if refused.Code != code || refused.Reason != reason {
		t.Errorf("%s: got %v %q, want %v %q", what, refused.Code, refused.Reason, code, reason)
	}
	if !errors.Is(err, tunnel.ErrRefused) {
		t.Errorf("%s: error %v does not wrap tunnel.ErrRefused", what, err)
	}
}

// talkOnNewStream shows that the session is well after what happened on it.
func (p *pair) talkOnNewStream() {
	p.Helper()
	near, far := p.open()
	p.talk(near, far, "still here")
}

func testCancelWhileOpening(p *pair) {
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	arrived := p.arrive()
	opened := p.openLater(ctx, tunnel.StreamInfo{})
	in := p.incoming(arrived) // the opener waits for its answer now
	cancel()
	if o := await(p, opened, "OpenStream"); !errors.Is(o.err, context.Canceled) {
		p.Errorf("OpenStream: got error %v, want %v", o.err, context.Canceled)
	}
	_, err := in.Read(make([]byte, 1))
	p.wantError("Read of the abandoned stream", err)
	in.Accept() // too late; whatever it returns, it must not disturb the session
	in.Close()
	p.talkOnNewStream()
}

func testCancelAround(p *pair) {
	before, cancel := context.WithCancel(p.ctx)
	cancel()
	if conn, err := p.tun.OpenStream(before, tunnel.StreamInfo{}); !errors.Is(err, context.Canceled) {
		p.Errorf("OpenStream with a cancelled context: got %v, %v, want %v", conn, err, context.Canceled)
	}

	after, cancel := context.WithCancel(p.ctx)
	// The cancelled opening may have reached the agent all the same.
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			conn, err := p.ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if answer(conn) == nil {
					io.Copy(conn, conn)
				}
			}()
		}
	}()
	p.Cleanup(func() { p.tun.Close(); p.ln.Close(); <-served })
	near, err := p.tun.OpenStream(after, tunnel.StreamInfo{})
	cancel()
	if err != nil {
		p.Fatalf("OpenStream: %v", err)
	}
	defer near.Close()
	near.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(near, "after"); err != nil {
		p.Fatalf("Write after the context ended: %v", err)
	}
	p.expect(near, "after")
}

func testCloseUnanswered(p *pair) {
	arrived := p.arrive()
	opened := p.openLater(p.ctx, tunnel.StreamInfo{})
	in := p.incoming(arrived)
	if err := in.Close(); err != nil {
		p.Errorf("Close: %v", err)
	}
	o := await(p, opened, "OpenStream")
	if o.err == nil {
		_, err := o.conn.Read(make([]byte, 1))
		p.wantError("Read of a stream that was closed unanswered", err)
	}
	p.talkOnNewStream()
}

func testCloseTunnel(p *pair) {
	near, far := p.open()
	p.talk(near, far, "before")
	arrived := p.arrive()
	told := make(chan bool, 16)
	a, tells := p.tun.(tunnel.Availability)
	if tells {
		for range 2 {
			a.OnAvailability(func() {
				select {
				case <-p.tun.Done():
					told <- a.Available()
				default: // about something else
				}
			})
		}
	}
	if err := p.tun.Close(); err != nil {
		p.Errorf("Close: %v", err)
	}
	if err := p.tun.Close(); err != nil {
		p.Errorf("second Close: %v", err)
	}
	for i := 0; tells && i < 2; i++ {
		if await(p, told, "OnAvailability") {
			p.Error("a tunnel that has ended says that it is available")
		}
	}
	select {
	case <-p.tun.Done():
	default:
		p.Error("Done is open after Close")
	}
	if a, ok := p.tun.(tunnel.Availability); ok && a.Available() {
		p.Error("a closed tunnel says that it is available")
	}
	if _, err := p.tun.OpenStream(p.ctx, tunnel.StreamInfo{}); !errors.Is(err, tunnel.ErrClosed) {
		p.Errorf("OpenStream after Close: got error %v, want %v", err, tunnel.ErrClosed)
	}
	if eo, ok := p.tun.(tunnel.EarlyOpener); ok {
		if _, err := eo.OpenEarly(tunnel.StreamInfo{}); !errors.Is(err, tunnel.ErrClosed) {
			p.Errorf("OpenEarly after Close: got error %v, want %v", err, tunnel.ErrClosed)
		}
	}
	if a := await(p, arrived, "Accept"); a.err == nil {
		p.Error("Accept after Close: got a stream, want an error")
	}

	for _, end := range []struct {
		name string
		conn net.Conn
	}{{"server", near}, {"agent", far}} {
		_, err := end.conn.Read(make([]byte, 1))
		p.wantError("Read at the "+end.name+" after Close", err)
		// Some dialects cannot tell the agent a lost stream from an ended one.
		_, tells := end.conn.(tunnel.Resetter)
		if err == io.EOF && (tells || end.name == "server") {
			p.Errorf("Read at the %s after Close: got %v, want another error", end.name, err)
		}
		p.wantError("Write at the "+end.name+" after Close", writeUntilError(end.conn))
	}
}

func testCloseWhileOpening(p *pair) {
	arrived := p.arrive()
	opened := p.openLater(p.ctx, tunnel.StreamInfo{})
	p.incoming(arrived)
	if err := p.tun.Close(); err != nil {
		p.Errorf("Close: %v", err)
	}
	if o := await(p, opened, "OpenStream"); !errors.Is(o.err, tunnel.ErrClosed) {
		p.Errorf("OpenStream: got error %v, want %v", o.err, tunnel.ErrClosed)
	}
}

func testCloseWhileWriting(p *pair) {
	near, far := p.open()
	failed := make(chan error, 2)
	for _, c := range []net.Conn{near, far} {
		go func() { failed <- writeUntilError(c) }()
	}
	p.expectBytes(near, 1)
	p.expectBytes(far, 1)
	if err := p.tun.Close(); err != nil {
		p.Errorf("Close: %v", err)
	}
	for range 2 {
		p.wantError("Write after Close", await(p, failed, "Write"))
	}
}

func testCloseListener(p *pair) {
	arrived := p.arrive()
	if err := p.ln.Close(); err != nil {
		p.Errorf("Close: %v", err)
	}
	if a := await(p, arrived, "Accept"); a.err == nil {
		p.Error("Accept after Close: got a stream, want an error")
	}
	_, err := p.tun.OpenStream(p.ctx, tunnel.StreamInfo{})
	if err == nil || p.ctx.Err() != nil {
		p.Errorf("OpenStream to a closed listener: got error %v, want one at once", err)
	}
}
