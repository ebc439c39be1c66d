package session_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"adit/internal/memnet"
	"adit/session"
)

var update = flag.Bool("update", false, "rewrite testdata/*.flow from what two sessions say to each other")

// A flow is a conversation of a dialler and a listener, recorded in
// testdata/*.flow. Lines are
//
//	# comment
//	! dialler open a hello   what a side is told to do, or "both"
//	> 01 00000c 6164...      a record of the dialler
//	< 02 000031 0110...      a record of the listener
//	> lost 10 000020 00...   one that the carrier lost
//
// "! only listener" at the top says that the lines of the dialler are written
// by hand, so that the flow is replayed against a listener alone; the number of
// the listener's lines is given by hand too.
type flow struct {
	path  string
	lines []string
}

func readFlow(t testing.TB, path string) *flow {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f := &flow{path: path}
	for sc := bufio.NewScanner(bytes.NewReader(b)); sc.Scan(); {
		f.lines = append(f.lines, sc.Text())
	}
	return f
}

func flows(t testing.TB) []*flow {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.flow")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no flows in testdata: %v", err)
	}
	var all []*flow
	for _, p := range paths {
		all = append(all, readFlow(t, p))
	}
	return all
}

func (f *flow) only() string {
	for _, line := range f.lines {
		if side, ok := strings.CutPrefix(line, "! only "); ok {
			return side
		}
	}
	return ""
}

// parseRecord returns the bytes of a line, and whether they were lost.
func parseRecord(t testing.TB, line string) (b []byte, lost bool) {
	t.Helper()
	line = strings.TrimSpace(line[1:])
	line, lost = strings.CutPrefix(line, "lost ")
	b, err := hex.DecodeString(strings.ReplaceAll(line, " ", ""))
	if err != nil {
		t.Fatalf("line %q: %v", line, err)
	}
	return b, lost
}

func formatRecord(mark string, b []byte) string {
	return fmt.Sprintf("%s %x %x %x", mark, b[:1], b[1:4], b[4:])
}

// A flowSide is a session that takes a part in a flow.
type flowSide struct {
	t        *testing.T
	name     string // "dialler" or "listener"
	opts     *session.Options
	acceptor *session.Acceptor // of the listener
	wg       *sync.WaitGroup

	s       *session.Session
	all     []*session.Session
	streams map[string]*session.Stream
}

func newFlowSide(t *testing.T, name string, wg *sync.WaitGroup) *flowSide {
	opts := &session.Options{
		Window:     64 << 10,
		MaxStreams: 100,
		Software:   "flow",
		Handle: func(_ context.Context, _ *session.Session, method uint16, body []byte) (uint16, []byte) {
			if method != 1 {
				return 2, nil
			}
			return 0, bytes.ToUpper(body)
		},
	}
	return &flowSide{t: t, name: name, opts: opts, acceptor: session.NewAcceptor(opts), wg: wg, streams: map[string]*session.Stream{}}
}

// attach starts or resumes the session on conn.
func (fs *flowSide) attach(conn net.Conn) {
	fs.wg.Go(func() {
		switch {
		case fs.name == "listener":
			if s, _, err := fs.acceptor.Accept(context.Background(), conn, nil, nil); err == nil {
				fs.s, fs.all = s, append(fs.all, s)
			}
		case fs.s == nil:
			fs.s, _ = session.Dial(context.Background(), conn, fs.opts)
		default:
			fs.s.Resume(context.Background(), conn)
		}
	})
}

// do carries out one command.
func (fs *flowSide) do(line string) {
	verb, rest, _ := strings.Cut(line, " ")
	name, rest, _ := strings.Cut(rest, " ")
	number, reason, _ := strings.Cut(rest, " ")
	code := func(s string) uint16 {
		n, err := strconv.ParseUint(s, 0, 16)
		if err != nil {
			fs.t.Fatalf("%s: %v", line, err)
		}
		return uint16(n)
	}
	var err error
	switch verb {
	case "open":
		fs.streams[name], err = fs.s.Open([]byte(rest))
	case "take", "accept":
		fs.streams[name] = accept(fs.t, fs.s)
		if verb == "accept" {
			err = fs.streams[name].Accepted()
		}
	case "write":
		_, err = fs.streams[name].Write([]byte(rest))
	case "fill":
		var n int
		n, err = strconv.Atoi(rest)
		fs.streams[name].Write(bytes.Repeat([]byte{'z'}, n))
	case "read":
		got := make([]byte, len(rest))
		if _, err = io.ReadFull(fs.streams[name], got); err == nil && string(got) != rest {
			err = fmt.Errorf("read %q", got)
		}
	case "end":
		var n int
		if n, err = fs.streams[name].Read(make([]byte, 1)); err == io.EOF {
			err = nil
		} else if err == nil {
			err = fmt.Errorf("read %d bytes, want the end", n)
		}
	case "fails":
		if _, err = fs.streams[name].Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), rest) {
			fs.t.Errorf("%s: %s: Read fails with %v", fs.name, line, err)
		}
		err = nil
	case "closewrite":
		err = fs.streams[name].CloseWrite()
	case "close":
		err = fs.streams[name].Close()
	case "reset":
		err = fs.streams[name].Reset(code(number), reason)
	case "refuse":
		err = fs.streams[name].Refuse(code(number), reason)
	case "call":
		fs.wg.Go(func() { fs.s.Call(context.Background(), code(name), []byte(rest)) })
	case "drain":
		fs.s.Drain(strings.TrimSpace(name + " " + rest))
	case "end-session":
		fs.wg.Go(func() { fs.s.CloseWith(code(name), rest) })
	case "ended":
		if got := fs.s.Err(); got == nil || !strings.Contains(got.Error(), strings.TrimSpace(name+" "+rest)) {
			fs.t.Errorf("%s: %s: session has ended with %v", fs.name, line, got)
		}
	case "attached":
		if got := fmt.Sprint(fs.s.Attached()); got != name {
			fs.t.Errorf("%s: %s: it is %s", fs.name, line, got)
		}
	default:
		fs.t.Fatalf("unknown command %q", line)
	}
	if err != nil {
		fs.t.Errorf("%s: %s: %v", fs.name, line, err)
	}
}

// TestFlows replays each recording, with a session in the part of the dialler
// and with one in the part of the listener: it must say the same again.
func TestFlows(t *testing.T) {
	for _, f := range flows(t) {
		name := strings.TrimSuffix(filepath.Base(f.path), ".flow")
		if *update && f.only() == "" {
			t.Run("update/"+name, func(t *testing.T) {
				cryptotest.SetGlobalRandom(t, 1)
				synctest.Test(t, func(t *testing.T) { f.record(t) })
			})
		}
		for _, side := range []string{"dialler", "listener"} {
			if only := f.only(); only != "" && only != side {
				continue
			}
			t.Run(name+"/"+side, func(t *testing.T) {
				cryptotest.SetGlobalRandom(t, 1)
				synctest.Test(t, func(t *testing.T) { f.replay(t, side) })
			})
		}
	}
}

// replay plays the part of the other side.
func (f *flow) replay(t *testing.T, side string) {
	var wg sync.WaitGroup
	defer wg.Wait()
	fs := newFlowSide(t, side, &wg)
	mine, theirs := ">", "<"
	if side == "listener" {
		mine, theirs = theirs, mine
	}
	var p *rawPeer
	defer func() {
		if p != nil {
			p.conn.Close()
		}
		if fs.s != nil {
			fs.s.Close()
		}
		for _, s := range fs.all {
			s.Close()
		}
	}()
	for i, line := range f.lines {
		synctest.Wait()
		switch {
		case strings.HasPrefix(line, "! both "):
			switch verb := strings.TrimPrefix(line, "! both "); {
			case verb == "connect":
				near, far := memnet.Pipe()
				p = newRawPeer(t, near)
				fs.attach(far)
			case verb == "cut":
				p.conn.Close()
			case strings.HasPrefix(verb, "sleep "):
				flowSleep(t, verb)
			case verb == "lose":
			default:
				t.Fatalf("line %d: unknown command %q", i+1, line)
			}
		case strings.HasPrefix(line, "! "+side+" "):
			fs.do(strings.TrimPrefix(line, "! "+side+" "))
		case strings.HasPrefix(line, mine):
			want, _ := parseRecord(t, line)
			p.conn.SetReadDeadline(time.Now().Add(time.Millisecond)) // it is there, or is not
			kind, body, err := p.tryRead()
			if *update && f.only() == side && err == nil {
				f.lines[i] = formatRecord(mine, record(kind, body))
				want, _ = parseRecord(t, f.lines[i])
			}
			if got := record(kind, body); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%s:%d: %s sends\n%s, %v; want\n%s", f.path, i+1, side, formatRecord(mine, got), err, line)
			}
		case strings.HasPrefix(line, theirs):
			if b, lost := parseRecord(t, line); !lost {
				p.conn.Write(b)
			}
		}
	}
	if *update && f.only() == side {
		f.write(t)
	}
}

func (f *flow) write(t *testing.T) {
	if err := os.WriteFile(f.path, []byte(strings.Join(f.lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

func flowSleep(t *testing.T, verb string) {
	d, err := time.ParseDuration(strings.TrimPrefix(verb, "sleep "))
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(d)
}

// A flowConn notes the records that are written to it.
type flowConn struct {
	*memnet.Conn
	log  *flowLog
	mark string
}

type flowLog struct {
	mu    sync.Mutex
	lines []string
	lose  bool
}

func (c *flowConn) Write(b []byte) (int, error) {
	c.log.mu.Lock()
	mark := c.mark
	if c.log.lose {
		mark += " lost"
	}
	c.log.lines = append(c.log.lines, formatRecord(mark, b))
	lose := c.log.lose
	c.log.mu.Unlock()
	if lose {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// record has two sessions carry out the commands of f, and rewrites the rest.
func (f *flow) record(t *testing.T) {
	var wg sync.WaitGroup
	defer wg.Wait()
	sides := map[string]*flowSide{"dialler": newFlowSide(t, "dialler", &wg), "listener": newFlowSide(t, "listener", &wg)}
	var log flowLog
	var a, b *flowConn
	for _, line := range f.lines {
		if strings.HasPrefix(line, ">") || strings.HasPrefix(line, "<") {
			continue
		}
		log.mu.Lock()
		log.lines = append(log.lines, line)
		log.mu.Unlock()
		rest, ok := strings.CutPrefix(line, "! ")
		if !ok {
			continue
		}
		side, verb, _ := strings.Cut(rest, " ")
		switch {
		case side != "both":
			sides[side].do(verb)
		case verb == "connect":
			x, y := memnet.Pipe()
			a, b = &flowConn{x, &log, ">"}, &flowConn{y, &log, "<"}
			sides["dialler"].attach(a)
			sides["listener"].attach(b)
		case verb == "cut":
			a.Close()
			b.Close()
			log.lose = false
		case verb == "lose":
			log.mu.Lock()
			log.lose = true
			log.mu.Unlock()
		case strings.HasPrefix(verb, "sleep "):
			flowSleep(t, verb)
		}
		synctest.Wait()
	}
	f.lines = append([]string(nil), log.lines...)
	for _, fs := range sides {
		fs.s.Close()
	}
	f.write(t)
}
