package main

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func testBackend(t *testing.T) target {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go backendConn(c)
		}
	}()
	return target{addr: ln.Addr().String(), host: "x"}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPatternWraps(t *testing.T) {
	v := verifier{seed: seedOf(7)}
	var off int64
	for off < 3*patLen {
		b := patAt(v.seed, off, 5000)
		if !v.check(b) {
			t.Fatalf("mismatch at %d", off)
		}
		off += 5000
	}
	bad := append([]byte(nil), patAt(v.seed, off, 100)...)
	bad[50] ^= 1
	if v.check(bad) {
		t.Fatal("a flipped bit went unnoticed")
	}
}

func TestVerifierNoticesShiftAndForeignBody(t *testing.T) {
	v := verifier{seed: seedOf(1)}
	if v.check(patAt(v.seed, 1, 64)) {
		t.Fatal("a shifted body passed")
	}
	v = verifier{seed: seedOf(1)}
	if v.check(patAt(seedOf(2), 0, 64)) {
		t.Fatal("the body of another request passed")
	}
}

func TestHTTPAgainstBackend(t *testing.T) {
	tg := testBackend(t)
	if err := probeHTTP(tg, time.Second); err != nil {
		t.Fatal(err)
	}
	tl := httpGets(tg, 4, 16<<10, 200*time.Millisecond, false, time.Second)
	if tl.ok == 0 || tl.failed() > 0 {
		t.Fatalf("%+v", tl.fails)
	}
	for _, up := range []bool{false, true} {
		tl, _ := httpBulk(tg, 2, 1<<20, 100*time.Millisecond, up, 5*time.Second)
		if tl.ok == 0 || tl.failed() > 0 {
			t.Fatalf("up %v: %+v %v", up, tl.fails, tl.samples)
		}
	}
}

func TestUDPAgainstBackend(t *testing.T) {
	pc, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		backendUDP(pc)
	}()
	defer func() {
		pc.Close()
		<-ended
	}()
	tg := target{addr: pc.LocalAddr().String()}
	if err := probeUDP(tg, time.Second); err != nil {
		t.Fatal(err)
	}
	tl := udpEcho(tg, 3, 1400, 8, 100*time.Millisecond, time.Second)
	if tl.ok < 3 || tl.failed() > 0 || tl.bytes != tl.ok*1400 || int64(len(tl.lat)) != tl.ok {
		t.Fatalf("%d datagrams, %d bytes, %d times, %+v %v", tl.ok, tl.bytes, len(tl.lat), tl.fails, tl.samples)
	}
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	tl = udpEcho(target{addr: silent.LocalAddr().String()}, 1, 64, 4, 10*time.Millisecond, 50*time.Millisecond)
	if tl.ok != 0 || tl.fails["lost"] != 4 {
		t.Fatalf("nobody answers: %d datagrams, %+v", tl.ok, tl.fails)
	}
}

func TestUDPVisitorChecks(t *testing.T) {
	v := udpVisitor{id: 7, size: 100}
	good := make([]byte, 100)
	binary.BigEndian.PutUint64(good, 7)
	binary.BigEndian.PutUint64(good[8:], 5)
	copy(good[udpHead:], patAt(seedOf(7), 5, 100-udpHead))
	if n, ok := v.check(good); !ok || n != 5 {
		t.Errorf("got %d, %t, want 5", n, ok)
	}
	for i := range good {
		bad := append([]byte(nil), good...)
		bad[i] ^= 1
		if _, ok := v.check(bad); ok {
			t.Errorf("a flipped bit in byte %d went unnoticed", i)
		}
	}
	if _, ok := v.check(good[:99]); ok {
		t.Error("a byte too few went unnoticed")
	}
}

func TestTCPAgainstBackend(t *testing.T) {
	tg := testBackend(t)
	for name, tl := range map[string]tally{
		"down":    tcpBulk(tg, 2, 200*time.Millisecond, false),
		"up":      tcpBulk(tg, 2, 200*time.Millisecond, true),
		"rr":      tcpRR(tg, 3, 100*time.Millisecond, time.Second),
		"connect": tcpConnects(tg, 2, 100*time.Millisecond, time.Second),
	} {
		if tl.ok == 0 || tl.failed() > 0 {
			t.Errorf("%s: ok %d, %+v %v", name, tl.ok, tl.fails, tl.samples)
		}
	}
}

// A liar in the middle: whatever the harness is told must be found wrong.
func TestFailuresAreCounted(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	answers := []string{
		"HTTP/1.1 200 OK\r\nX-Req-Id: 0000000000000000\r\nContent-Length: 128\r\n\r\n" + strings.Repeat("x", 128),
		"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nX-Req-Id: %ID\r\nContent-Length: 128\r\n\r\n" + strings.Repeat("x", 128),
		"HTTP/1.1 200 OK\r\nX-Req-Id: %ID\r\nContent-Length: 128\r\n\r\n",
	}
	want := []string{"wrong-id", "status-502", "wrong-bytes", "short"}
	for i, a := range answers {
		go func() {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			b := make([]byte, 4096)
			n, _ := c.Read(b)
			req := string(b[:n])
			k := strings.Index(req, "?id=")
			c.Write([]byte(strings.ReplaceAll(a, "%ID", req[k+4:k+20])))
			c.Close()
		}()
		h, err := dialHTTP(target{addr: ln.Addr().String(), host: "x"}, time.Second, 4096)
		if err != nil {
			t.Fatal(err)
		}
		err = h.get(128, time.Second, nil)
		if err == nil || classify(err) != want[i] {
			t.Errorf("answer %d: got %v, want %s", i, err, want[i])
		}
		h.c.Close()
	}
}

func TestChunkedBodies(t *testing.T) {
	tg := testBackend(t)
	c, err := net.Dial("tcp", tg.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	id := nextID()
	var x [16]byte
	putHex16(x[:], id)
	body := patAt(seedOf(id), 0, 10)
	req := "POST /upload?id=" + string(x[:]) + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n" + string(body[:4]) + "\r\n6;a=b\r\n" + string(body[4:]) + "\r\n0\r\n\r\n"
	c.Write([]byte(req))
	c.SetReadDeadline(time.Now().Add(2 * time.Second))
	b := make([]byte, 4096)
	n, _ := c.Read(b)
	if !strings.HasSuffix(string(b[:n]), "good 10") {
		t.Fatalf("%q", b[:n])
	}
}

func TestParseStat(t *testing.T) {
	line := "42 (a) b) (c)) S 7 42 42 0 -1 4194304 100 0 0 0 11 22 33 44 20 0 1 0 100 1000 10"
	st, ok := parseStat([]byte(line))
	if !ok || st.ppid != 7 || st.utime != 11 || st.stime != 22 || st.cutime != 33 || st.cstim != 44 {
		t.Fatalf("%+v %v", st, ok)
	}
}

func TestJWT(t *testing.T) {
	parts := strings.Split(makeJWT("s", "t0"), ".")
	if len(parts) != 3 {
		t.Fatal(parts)
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil || m["tid"] != "t0" {
		t.Fatal(string(b), err)
	}
}

func TestAllSubjectFilesLoad(t *testing.T) {
	subs, err := loadSubjects("subjects", nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(subs) < 5 {
		t.Fatal(len(subs))
	}
	dir := t.TempDir()
	for _, n := range []string{"adit", "nginx", "haproxy", "sshd"} {
		if err := os.WriteFile(filepath.Join(dir, n), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	env := &runEnv{binDir: dir, workRoot: dir, backend: "127.0.0.1:1", backendFar: "127.0.0.1:1", serverHost: "127.0.0.1", clientHost: "127.0.0.1",
		cmdFlags: map[string]string{}}
	for _, s := range subs {
		in, err := newInstance(s, env)
		if err != nil {
			t.Fatal(err)
		}
		d := in.data(in.tun)
		if err := in.writeFiles(s.Files, d); err != nil {
			t.Errorf("%s: %v", s.Name, err)
		}
		many := Command{}
		if s.Many != nil {
			many = s.Many.Client
		}
		for role, c := range map[string]Command{"server": s.Server, "client": s.Client, "many": many} {
			if _, _, err := in.argv(c, role, d); err != nil {
				t.Errorf("%s %s: %v", s.Name, role, err)
			}
		}
		if _, err := in.targetFor(in.tun); err != nil {
			t.Errorf("%s: %v", s.Name, err)
		}
	}
}

func TestCompareLine(t *testing.T) {
	sc := scenario{primary: "req_s", higher: true}
	mk := func(xs, cpu []float64, fails map[string]int) []Result {
		return []Result{{Raw: map[string][]float64{"req_s": xs, "cpu_s_per_10k": cpu}, Fails: fails}}
	}
	all := map[string][]Result{"a": mk([]float64{12000, 12000, 13000}, []float64{.8, .8, .8}, nil), "b": mk([]float64{10000, 10000, 10000}, []float64{1, 1, 1}, nil)}
	line, ratio, cpu, ok := compareLine(sc, "", "a", "b", all)
	if ratio != 1.2 || cpu != .8 || !ok || line != "ratio 1.20 (A 12,000 req/s, B 10,000 req/s; cpu 0.80)" {
		t.Fatal(line, ratio, cpu, ok)
	}
	all["a"] = mk([]float64{12000}, nil, map[string]int{"wrong-bytes": 1})
	if _, _, _, ok := compareLine(sc, "", "a", "b", all); ok {
		t.Fatal("failures of A must not pass")
	}
	low := scenario{primary: "gap_ms"}
	all = map[string][]Result{"a": {{Raw: map[string][]float64{"gap_ms": {100}}}}, "b": {{Raw: map[string][]float64{"gap_ms": {300}}}}}
	if _, ratio, _, _ := compareLine(low, "", "a", "b", all); ratio != 3 {
		t.Fatal(ratio)
	}
}

// Only a kept-alive connection that ended before a byte of the answer may be
// replaced; an answer cut short is a failure.
func TestStaleConnectionIsNotAFailure(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	good := "HTTP/1.1 200 OK\r\nX-Req-Id: %ID\r\nContent-Length: 0\r\n\r\n"
	for _, tt := range []struct {
		name    string
		answers [][]string // of each connection
		stale   bool
		want    string
	}{
		{"closed while idle", [][]string{{good}, {good}}, true, ""},
		{"cut in the status line", [][]string{{good, "HTTP/1.1 20"}}, false, "eof"},
		{"cut in the head", [][]string{{good, "HTTP/1.1 200 OK\r\nX-Req"}}, false, "eof"},
	} {
		served := make(chan struct{})
		go func() {
			defer close(served)
			for _, conn := range tt.answers {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				b := make([]byte, 4096)
				for _, a := range conn {
					n, _ := c.Read(b)
					k := strings.Index(string(b[:n]), "?id=")
					if k < 0 {
						break
					}
					c.Write([]byte(strings.ReplaceAll(a, "%ID", string(b[k+4:k+20]))))
				}
				c.Close()
			}
		}()
		tg := target{addr: ln.Addr().String(), host: "x"}
		h, _, err := getOver(nil, tg, 0, time.Second)
		if err != nil {
			t.Fatalf("%s: first request: %v", tt.name, err)
		}
		h, stale, err := getOver(h, tg, 0, time.Second)
		got := ""
		if err != nil {
			got = classify(err)
		}
		if stale != tt.stale || got != tt.want {
			t.Errorf("%s: got stale %v, error %q (%v), want %v, %q", tt.name, stale, got, err, tt.stale, tt.want)
		}
		if h != nil {
			h.c.Close()
		}
		<-served
	}
}

func TestVariants(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		list string
		ok   bool
	}{
		{"http-small/c7", true}, {"tcp-bulk/down-c2", true}, {"all", true}, {"http-small, tcp-rr", true},
		{"http-small/d7", false}, {"tcp-bulk/u", false}, {"nothing", false},
	} {
		if _, err := pickScenarios(tt.list); (err == nil) != tt.ok {
			t.Errorf("pickScenarios(%q): got error %v, want ok %v", tt.list, err, tt.ok)
		}
	}
}

func TestParseWan(t *testing.T) {
	for _, bad := range []string{"", "40", "40ms,", "40ms,100%", "-1ms", "40ms,fast"} {
		if _, err := parseWan(bad); err == nil {
			t.Errorf("parseWan(%q): got no error", bad)
		}
	}
	w, err := parseWan("40ms,0.5%,100mbit")
	if err != nil || w.rtt != 40*time.Millisecond || w.loss != .005 || w.rate != 12.5e6 || w.cc != "" {
		t.Fatal(w, err)
	}
}

func TestMedianAndNum(t *testing.T) {
	if median([]float64{3, 1, 2}) != 2 || median([]float64{1, 2}) != 1.5 {
		t.Fatal("median")
	}
	if num(10210) != "10,210" || num(1234567) != "1,234,567" {
		t.Fatal(num(1234567))
	}
}
