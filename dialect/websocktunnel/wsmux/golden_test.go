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
