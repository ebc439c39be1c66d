package wsmux_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"adit/dialect/websocktunnel/wsmux"
	"adit/internal/wsframe"
)

// An event is a frame of a recorded conversation.
type event struct {
	fromAgent bool
	raw       []byte // as it was sent
	frame
}

var timelineFrame = regexp.MustCompile(`^ *[0-9]+ ms ([cs]2[cs]) ws frame at ([0-9]+) fin=(true|false)`)

// load reads the conversation name, which ends in ".tunnel" or the like.
func load(t testing.TB, name string) []event {
	t.Helper()
	bytesOf := map[string][]byte{}
	for _, dir := range []string{"c2s", "s2c"} {
		b, err := os.ReadFile(filepath.Join("testdata", name+"."+dir+".bin"))
		if err != nil {
			t.Fatal(err)
		}
		bytesOf[dir] = b
	}
	timeline, err := os.ReadFile(filepath.Join("testdata", name+".timeline.txt"))
	if err != nil {
		t.Fatal(err)
	}
	var events []event
	var parts []byte // of a fragmented message
	var whole []byte
	for line := range strings.Lines(string(timeline)) {
		m := timelineFrame.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		at, err := strconv.Atoi(m[2])
		if err != nil {
			t.Fatal(err)
		}
		src := bytesOf[m[1]][at:]
		h, n, err := wsframe.Parse(src)
		if err != nil || n == 0 {
			t.Fatalf("%s: %q: header: %v", name, line, err)
		}
		e := event{fromAgent: m[1] == "c2s", raw: src[:n+int(h.Size)]}
		payload := bytes.Clone(src[n : n+int(h.Size)])
		wsframe.Mask(payload, payload, h.Key)
		if h.Op == wsframe.Continuation || !h.Fin {
			parts, whole = append(parts, payload...), append(whole, e.raw...)
			if !h.Fin {
				continue
			}
			payload, e.raw = parts, whole
			h.Op, parts, whole = wsframe.Binary, nil, nil
		}
		e.frame = frame{op: h.Op, payload: string(payload)}
		if h.Op == wsframe.Binary && len(payload) >= 5 {
			e.frame, err = readFrame(bytes.NewReader(append(wsframe.Append(nil, wsframe.Binary, len(payload), false, 0), payload...)), false)
			if err != nil {
				t.Fatal(err)
			}
		}
		events = append(events, e)
	}
	if len(events) == 0 {
		t.Fatalf("%s: no frames", name)
	}
	return events
}

var conversations = []string{
	"websocktunnel/01-get.tunnel",
	"websocktunnel/02-post-window-1024.tunnel",
	"websocktunnel/03-get-20000.tunnel",
	"websocktunnel/04-websocket-viewer.tunnel",
	"websocktunnel/05-client-sigterm.tunnel",
	"websocktunnel/06-takeover.old",
	"websocktunnel/08-keepalive.tunnel",
	"websocktunnel/09-origin-drops.tunnel",
	"webhooktunnel/01-get-single-2018-12.tunnel",
	"webhooktunnel/02-post-single-2018-12.tunnel",
	"webhooktunnel/04-get-single-2018-09.tunnel",
	"webhooktunnel/05-domain-hosted-2018-12.tunnel",
}

// TestGolden plays each side of each conversation: what the original sent comes
// in byte by byte as it was, and this side, whose application does what the
// other one's did, must send the same frames but for control frames and the way
// in which credit is divided.
func TestGolden(t *testing.T) {
	t.Parallel()
	for _, name := range conversations {
		events := load(t, name)
		for _, role := range []wsmux.Role{wsmux.Server, wsmux.Agent} {
			t.Run(fmt.Sprintf("%s, as %s", name, map[wsmux.Role]string{wsmux.Server: "server", wsmux.Agent: "agent"}[role]), func(t *testing.T) {
				t.Parallel()
				g := &golden{T: t, role: role, streams: map[uint32]*wsmux.Stream{}, unread: map[uint32]string{}, accepted: map[uint32]bool{}}
				// Agents of the time sent more than 4096 bytes at once.
				g.s, g.raw = start(t, role, wsmux.Options{PeerWindow: 4 << 20})
				for i, e := range events {
					g.step(i, e)
				}
				g.finish()
			})
		}
	}
}

type golden struct {
	*testing.T
	role    wsmux.Role
	s       *wsmux.Session
	raw     *raw
	streams map[uint32]*wsmux.Stream
	unread  map[uint32]string // what the other side sent on streams
	acked   int               // credit that it gave, and how much it may
	mayAck  int
	opened  chan *wsmux.Stream

	accepted map[uint32]bool // streams whose first ACK was seen
}

// ours reports whether e is for this side to send.
func (g *golden) ours(e event) bool { return e.fromAgent == (g.role == wsmux.Agent) }

func (g *golden) step(i int, e event) {
	g.Helper()
	if e.op != wsframe.Binary {
		if !g.ours(e) {
			g.write(e.raw)
		}
		return
	}
	if !g.ours(e) {
		g.theirs(e)
		return
	}
	switch st := g.streams[e.stream]; e.typ {
	case wsmux.SYN:
		g.opened = make(chan *wsmux.Stream, 1)
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			st, err := g.s.Open(ctx)
			if err != nil {
				g.Errorf("event %d: Open: %v", i, err)
			}
			g.opened <- st
		}()
		g.wants(e.frame)
	case wsmux.ACK:
		if g.role == wsmux.Agent && st == nil {
			st, err := g.s.Accept()
			if err == nil {
				err = st.Accepted()
			}
			if err != nil {
				g.Fatalf("event %d: Accept: %v", i, err)
			}
			g.streams[e.stream] = st
			if f := g.next(); f.typ != wsmux.ACK || f.credit() < 4096 {
				g.Errorf("event %d: got %v, want a window", i, f)
			}
			return
		}
		// The application reads so much.
		b := make([]byte, e.credit())
		if _, err := io.ReadFull(st, b); err != nil || !strings.HasPrefix(g.unread[e.stream], string(b)) {
			g.Errorf("event %d: read %.40q, %v; want %.40q", i, b, err, g.unread[e.stream])
		}
		g.unread[e.stream] = strings.TrimPrefix(g.unread[e.stream], string(b))
		g.mayAck += e.credit()
	case wsmux.DAT:
		if _, err := io.WriteString(st, e.payload); err != nil {
			g.Fatalf("event %d: Write: %v", i, err)
		}
		g.wants(e.frame)
	case wsmux.FIN:
		if err := st.CloseWrite(); err != nil {
			g.Errorf("event %d: CloseWrite: %v", i, err)
		}
		g.wants(e.frame)
	}
}

func (g *golden) write(b []byte) {
	g.Helper()
	if _, err := g.raw.conn.Write(b); err != nil {
		g.Fatal(err)
	}
}

// theirs plays a frame of the other side.
func (g *golden) theirs(e event) {
	g.Helper()
	g.write(e.raw)
	switch e.typ {
	case wsmux.DAT:
		g.unread[e.stream] += e.payload
	case wsmux.ACK:
		if g.role == wsmux.Server && g.streams[e.stream] == nil {
			g.streams[e.stream] = <-g.opened
		}
	}
}

// next returns the next frame that is sent, with credit that is no first one
// taken apart.
func (g *golden) next() frame {
	g.Helper()
	for {
		f := g.raw.next()
		if f.typ != wsmux.ACK || g.role == wsmux.Agent && !g.accepted[f.stream] {
			g.accepted[f.stream] = true
			return f
		}
		g.acked += f.credit()
	}
}

// wants waits for a frame. DAT may come in parts.
func (g *golden) wants(want frame) {
	g.Helper()
	got := g.next()
	for got.typ == wsmux.DAT && len(got.payload) < len(want.payload) {
		more := g.next()
		if more.typ != wsmux.DAT {
			break
		}
		got.payload += more.payload
	}
	if got != want {
		g.Fatalf("sent %v, want %v", got, want)
	}
}

func (g *golden) finish() {
	g.Helper()
	if g.acked > g.mayAck {
		g.Errorf("gave a credit of %d for %d bytes", g.acked, g.mayAck)
	}
	for id, text := range g.unread {
		if text != "" {
			g.Errorf("stream %d: %.40q was not read", id, text)
		}
	}
	for _, st := range g.streams {
		st.Close()
	}
	g.raw.conn.Close()
	<-g.s.Done()
}

// The frame of 07-bad-frame, and what it was answered with.
func TestGoldenBadFrame(t *testing.T) {
	t.Parallel()
	events := load(t, "websocktunnel/07-bad-frame.tunnel")
	s, r := start(t, wsmux.Server, wsmux.Options{})
	var answer frame
	for _, e := range events {
		if e.fromAgent {
			r.conn.Write(e.raw)
		} else if e.op == wsframe.Close {
			answer = e.frame
		}
	}
	code, reason := r.closed()
	if want := "\x03\xf0malformed header"; answer.payload != want || code != 1008 || reason != want[2:] {
		t.Errorf("closed with %d %q, the original with %q", code, reason, answer.payload)
	}
	<-s.Done()
}

// TestGoldenTrace plays each side of an upload larger than the window, of which
// only the frames' sizes were recorded: what the original sent comes in, and
// this side must send as many bytes, never more than there is credit for, and
// give credit for each byte that was read, and no more.
func TestGoldenTrace(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/websocktunnel/10-post-5mib.trace.txt")
	if err != nil {
		t.Fatal(err)
	}
	type step struct {
		fromAgent bool
		typ       wsmux.Type
		n         int // bytes of DAT, credit of ACK
	}
	var steps []step
	sums := map[step]int{} // by direction and type
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		typ, ok := map[string]wsmux.Type{"SYN": wsmux.SYN, "ACK": wsmux.ACK, "DAT": wsmux.DAT, "FIN": wsmux.FIN}[f[1]]
		if !ok || f[0] == "#" {
			continue
		}
		e := step{fromAgent: f[0] == "c2s", typ: typ}
		times := 1
		for i, field := range f[3:] {
			n, err := strconv.Atoi(strings.TrimPrefix(field, "x"))
			if err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			if i == 0 {
				e.n = n
			} else {
				times = n
			}
		}
		for range times {
			steps = append(steps, e)
			sums[step{e.fromAgent, e.typ, 0}] += e.n
		}
	}
	up, down := sums[step{false, wsmux.DAT, 0}], sums[step{true, wsmux.DAT, 0}]
	if up != 5243039 || down != 376 {
		t.Fatalf("%d bytes up and %d down", up, down)
	}
	for _, role := range []wsmux.Role{wsmux.Server, wsmux.Agent} {
		t.Run(map[wsmux.Role]string{wsmux.Server: "as server", wsmux.Agent: "as agent"}[role], func(t *testing.T) {
			t.Parallel()
			s, r := start(t, role, wsmux.Options{PeerWindow: 4 << 20})
			ours, theirs := up, down // bytes to send, and to read
			if role == wsmux.Agent {
				ours, theirs = down, up
			}
			// The application writes all, and reads all.
			app := make(chan error, 1)
			go func() {
				var st *wsmux.Stream
				var err error
				if role == wsmux.Server {
					ctx, cancel := context.WithTimeout(context.Background(), patience)
					defer cancel()
					st, err = s.Open(ctx)
				} else if st, err = s.Accept(); err == nil {
					err = st.Accepted()
				}
				if err != nil {
					app <- err
					return
				}
				first := func() error {
					if _, err := st.Write(make([]byte, ours)); err != nil {
						return err
					}
					if role == wsmux.Agent {
						return st.CloseWrite()
					}
					return nil
				}
				second := func() error {
					_, err := io.CopyN(io.Discard, struct{ io.Reader }{st}, int64(theirs))
					return err
				}
				if role == wsmux.Agent {
					first, second = second, first // once the request is there
				}
				if err := first(); err != nil {
					app <- err
				} else if err := second(); err != nil {
					app <- err
				} else {
					app <- st.Close()
				}
			}()

			// got is what this side has sent, as far as it has come.
			credit, got, fin := 0, map[wsmux.Type]int{}, false
			if role == wsmux.Agent {
				credit = 4 << 20 // agents have it from the start
			}
			receive := func() {
				f := r.next()
				switch f.typ {
				case wsmux.ACK:
					got[wsmux.ACK] += f.credit()
				case wsmux.FIN:
					fin = true
				default:
					got[f.typ] += max(len(f.payload), 1)
				}
				if got[wsmux.DAT] > credit {
					t.Fatalf("%d bytes with a credit of %d", got[wsmux.DAT], credit)
				}
			}
			mayAck, sent := 0, 0 // what this side may give, and what it was sent
			for _, e := range steps {
				if e.fromAgent == (role == wsmux.Agent) {
					continue
				}
				switch e.typ {
				case wsmux.SYN:
					r.send(wsmux.SYN, 0, "")
					receive() // the window, before which nothing may be sent
					mayAck = got[wsmux.ACK]
				case wsmux.ACK:
					if got[wsmux.SYN] == 0 {
						receive()
					}
					// Credit for what was read, which must have come before.
					for role == wsmux.Server && credit > 0 && got[wsmux.DAT] < credit+e.n-(4<<20) {
						receive()
					}
					credit += e.n
					r.ack(0, e.n)
				case wsmux.DAT:
					for role == wsmux.Agent && got[wsmux.ACK] < sent+e.n || role == wsmux.Server && got[wsmux.DAT] < ours {
						receive()
					}
					sent += e.n
					r.send(wsmux.DAT, 0, strings.Repeat("x", e.n))
				case wsmux.FIN:
					for role == wsmux.Agent && !fin {
						receive()
					}
					r.send(wsmux.FIN, 0, "")
				}
			}
			for got[wsmux.DAT] < ours || !fin {
				receive()
			}
			if err := <-app; err != nil {
				t.Error(err)
			}
			mayAck += theirs
			if got[wsmux.DAT] != ours || got[wsmux.ACK] > mayAck || got[wsmux.ACK] < mayAck-(1<<20) {
				t.Errorf("sent %d bytes and gave a credit of %d, want %d and about %d", got[wsmux.DAT], got[wsmux.ACK], ours, mayAck)
			}
		})
	}
}
