package wstunnel

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"adit/internal/wsframe"
)

// Long messages are read in the frames in which the originals were seen to send
// them, such as one of the whole size that is not the last.
func TestFramesReplay(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*-frames-*.tsv")
	if err != nil || len(files) != 3 {
		t.Fatalf("recorded frames: %q, %v; want 3", files, err)
	}
	for _, file := range files {
		var wire, want bytes.Buffer
		client := false // which side reads
		for line := range strings.Lines(recorded(t, filepath.Base(file))) {
			f := strings.Split(strings.TrimSpace(line), "\t")
			size, err := strconv.Atoi(f[len(f)-2])
			if err != nil || size < 100 && size > 0 { // the heading, and the short message the other way
				continue
			}
			client = f[0] == "server->client"
			op, _ := strconv.Atoi(f[2])
			payload := bytes.Repeat([]byte{byte('a' + want.Len()%26)}, size)
			want.Write(payload)
			wire.Write(appendFrame(nil, byte(op), f[1] == "true", payload, f[3] == "true"))
			wire.Write(appendFrame(nil, wsframe.Ping, true, nil, f[3] == "true")) // may come anywhere
		}
		conn, far := net.Pipe()
		r := &wsReader{c: conn, br: bufio.NewReader(&wire), client: client, limit: func() time.Duration { return time.Minute }, onCtrl: func(byte, []byte) {}}
		if err := r.next(); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, want.Bytes()) || want.Len() < 100<<10 {
			t.Errorf("%s: got %d bytes, %v; want %d", file, len(got), err, want.Len())
		}
		conn.Close()
		far.Close()
	}
}

// What a caller gets whose request has taken too long.
func TestTimeoutReplay(t *testing.T) {
	t.Parallel()
	_, addr := startServer(t, ServerOptions{RequestTimeout: 50 * time.Millisecond})
	dialPeer(t, addr, originalHandshake(testToken))
	want := undated(recorded(t, "70-tunnel-timeout.response.http"))
	for _, method := range []string{"GET", "POST"} {
		answer := ask(t, addr, method+" /_token/"+testToken+"/ HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		if got := undated(<-answer); got != want {
			t.Errorf("%s: got %q, want %q", method, got, want)
		}
	}
}

// What a client gets that has been silent for too long.
func TestPingTimeoutReplay(t *testing.T) {
	t.Parallel()
	_, addr := startServer(t, ServerOptions{PingTimeout: 50 * time.Millisecond})
	got := <-ask(t, addr, recorded(t, "01-upgrade-request.http"))
	if want := recorded(t, "02-upgrade-response.http") + recorded(t, "71-ping-timeout-close.frame"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
