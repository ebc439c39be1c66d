package websocktunnel_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"adit/auth"
	"adit/dialect"
	"adit/dialect/websocktunnel"
)

// A registration is the head of a recorded conversation, as it was sent.
type registration struct {
	name         string
	family       *websocktunnel.Family
	asks, answer string // with their last empty lines
}

// registrations returns those of all recorded conversations.
func registrations(t testing.TB) []registration {
	t.Helper()
	files, err := filepath.Glob("wsmux/testdata/*/*.c2s.bin")
	if err != nil || len(files) < 14 {
		t.Fatalf("%d conversations, %v", len(files), err)
	}
	var all []registration
	for _, file := range files {
		r := registration{name: strings.TrimSuffix(file, ".c2s.bin"), family: websocktunnel.Websocktunnel}
		if strings.Contains(file, "webhooktunnel") {
			r.family = websocktunnel.Webhooktunnel
		}
		for file, to := range map[string]*string{file: &r.asks, r.name + ".s2c.bin": &r.answer} {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			head, _, ok := strings.Cut(string(b), "\r\n\r\n")
			if !ok {
				t.Fatalf("%s has no head", file)
			}
			*to = head + "\r\n\r\n"
		}
		r.name = strings.TrimPrefix(r.name, "wsmux/testdata/")
		all = append(all, r)
	}
	return all
}

// field returns the value of a head's field.
func field(head, name string) string {
	_, rest, _ := strings.Cut(head, "\r\n"+name+": ")
	value, _, _ := strings.Cut(rest, "\r\n")
	return value
}

// What the originals registered with is answered as their servers did, byte by
// byte, and the first ping comes with it.
func TestGoldenRegistrations(t *testing.T) {
	t.Parallel()
	for _, r := range registrations(t) {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			tokens, err := auth.NewTunnelTokens(auth.TunnelTokenOptions{Secrets: []string{"test-secret-a", "test-secret-b"}, Lax: true})
			if err != nil {
				t.Fatal(err)
			}
			told := ""
			for _, name := range []string{"X-Websocktunnel-Client-Url", "X-Webhooktunnel-Client-Url"} {
				told += field(r.answer, name)
			}
			fs := newFakeServer(t, false, websocktunnel.Options{
				Auth: tokens,
				URL:  func(*websocktunnel.Family, string, dialect.Bound) string { return told },
			})
			conn, err := net.Dial("tcp", fs.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(patience))
			if _, err := io.WriteString(conn, r.asks); err != nil {
				t.Fatal(err)
			}
			// The pong that nobody asked for is this side's own.
			want := r.answer + "\x8a\x00\x89\x00"
			got := make([]byte, len(want))
			if n, err := io.ReadFull(conn, got); string(got) != want || err != nil {
				t.Errorf("got %q, %v; want %q", got[:n], err, want)
			}
			if id := fs.next(t).ID(); id != "demo" {
				t.Errorf("registered as %q", id)
			}
		})
	}
}

// An agent registers as the originals did, byte by byte but for the key, and
// with its offer of the extension behind that, if it makes one.
func TestGoldenHandshakes(t *testing.T) {
	t.Parallel()
	for _, r := range registrations(t) {
		if field(r.asks, "User-Agent") == "" {
			continue // typed by hand
		}
		for _, plain := range []bool{true, false} {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			heads := make(chan string, 1)
			go func() {
				defer close(heads)
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				br := bufio.NewReader(conn)
				var head strings.Builder
				for {
					line, err := br.ReadString('\n')
					head.WriteString(line)
					if err != nil || line == "\r\n" {
						break
					}
				}
				heads <- head.String()
				io.WriteString(conn, r.answer)
				io.Copy(io.Discard, br)
			}()
			_, err = websocktunnel.Listen(t.Context(), websocktunnel.ListenOptions{
				Configure: func(context.Context, websocktunnel.Ask) (websocktunnel.Config, error) {
					token := strings.TrimPrefix(field(r.asks, "Authorization"), "Bearer ") + "\n"
					return websocktunnel.Config{ID: "demo", Server: "http://" + ln.Addr().String(), Token: token, Family: r.family}, nil
				},
				Retry: websocktunnel.Retry{Total: time.Millisecond},
				Plain: plain,
			})
			if err == nil {
				t.Errorf("%s: the answer to another key was taken", r.name)
			}
			got := <-heads
			want := strings.Replace(r.asks, field(r.asks, "Sec-WebSocket-Key"), field(got, "Sec-WebSocket-Key"), 1)
			want = strings.Replace(want, field(r.asks, "Host"), ln.Addr().String(), 1)
			if !plain {
				want = strings.TrimSuffix(want, "\r\n") + "Adit-Wsmux: window=262144, mask=zero\r\n\r\n"
			}
			if got != want {
				t.Errorf("%s, plain %v: registered with\n%q, want\n%q", r.name, plain, got, want)
			}
			ln.Close()
			<-heads // the goroutine has ended
		}
	}
}
