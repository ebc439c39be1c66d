package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"adit/dialect/websocktunnel"
)

// What viewers and local services sent and received through the originals goes
// through websocktunnel here, to an agent that speaks as theirs.
func TestWebsocktunnelGolden(t *testing.T) {
	t.Parallel()
	pair, roots := tunnelCertificate(t, "whp.test", "*.whp.test")
	secure := append([]string{"URL_PREFIX=", "HOSTNAME=whp.test"}, pair...)
	recorded := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join("..", "..", "dialect", "websocktunnel", "testdata", name+".bin"))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, tt := range []struct {
		viewer, origin string // recorded conns; no origin means that it drops
		family         *websocktunnel.Family
		env            []string
		url            string
	}{
		{"websocktunnel/01-get.viewer", "websocktunnel/01-get.origin", websocktunnel.Websocktunnel, nil, "http://tunnel.test/demo"},
		{"websocktunnel/02-post-window-1024.viewer", "websocktunnel/02-post-window-1024.origin", websocktunnel.Websocktunnel, nil, "http://tunnel.test/demo"},
		{"websocktunnel/04-websocket-viewer.viewer", "websocktunnel/04-websocket-viewer.origin", websocktunnel.Websocktunnel, nil, "http://tunnel.test/demo"},
		{"websocktunnel/09-origin-drops.viewer", "", websocktunnel.Websocktunnel, nil, "http://tunnel.test/demo"},
		{"webhooktunnel/01-get-single-2018-12.viewer", "webhooktunnel/01-get-single-2018-12.origin", websocktunnel.Webhooktunnel, []string{"URL_PREFIX=", "HOSTNAME=tunnel.test"}, "http://tunnel.test/demo"},
		{"webhooktunnel/05-domain-hosted-2018-12.viewer-get", "webhooktunnel/05-domain-hosted-2018-12.origin-get", websocktunnel.Webhooktunnel, secure, "https://demo.whp.test"},
		{"webhooktunnel/05-domain-hosted-2018-12.viewer-websocket", "websocktunnel/04-websocket-viewer.origin", websocktunnel.Webhooktunnel, secure, "https://demo.whp.test"},
	} {
		t.Run(tt.viewer, func(t *testing.T) {
			t.Parallel()
			_, port := startWebsocktunnel(t, tt.env)
			secret := strings.HasPrefix(tt.url, "https")
			config := &tls.Config{RootCAs: roots, ServerName: "whp.test"}
			l, err := websocktunnel.Listen(t.Context(), websocktunnel.ListenOptions{
				Configure: func(context.Context, websocktunnel.Ask) (websocktunnel.Config, error) {
					c := websocktunnel.Config{ID: "demo", Token: tunnelToken(t, "demo", nil), Family: tt.family, Server: "http://127.0.0.1:" + port}
					if secret {
						c.Server = "https://127.0.0.1:" + port
					}
					return c, nil
				},
				TLS:   config,
				Proxy: func(*url.URL) (*url.URL, error) { return nil, nil },
				Plain: true,
			})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if l.URL() != tt.url {
				t.Errorf("the agent was told %s, the original %s", l.URL(), tt.url)
			}

			viewer, err := net.Dial("tcp", "127.0.0.1:"+port)
			if err != nil {
				t.Fatal(err)
			}
			if secret {
				viewer = tls.Client(viewer, config)
			}
			defer viewer.Close()
			viewer.SetDeadline(time.Now().Add(patience))
			asks, gets := recorded(tt.viewer+".c2s"), recorded(tt.viewer+".s2c")
			head, rest := cutHead(asks)
			upgrade := bytes.Contains(head, []byte("websocket"))
			if !upgrade {
				head, rest = asks, nil
			}
			if _, err := viewer.Write(head); err != nil {
				t.Fatal(err)
			}
			stream, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer stream.Close()
			stream.SetDeadline(time.Now().Add(patience))

			// The request, and the answer.
			if tt.origin == "" {
				stream.Close()
			} else {
				sees, says := recorded(tt.origin+".c2s"), recorded(tt.origin+".s2c")
				wantHead, wantBody := cutHead(sees)
				gotHead, gotBody := readHead(t, stream)
				if tt.viewer != "webhooktunnel/05-domain-hosted-2018-12.viewer-websocket" { // whose origin was not recorded
					sameLines(t, "the request", gotHead, wantHead)
				}
				if !upgrade {
					gotBody = append(gotBody, readSize(t, stream, len(wantBody)-len(gotBody))...)
					if !bytes.Equal(gotBody, wantBody) {
						t.Errorf("the body: got %.80q, want %.80q", gotBody, wantBody)
					}
				} else {
					says = bytes.Replace(says, []byte("mg9+1NrMc4YEfaJNMPHjbCt+1ME="), []byte("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), 1) // the viewer's key gets here
				}
				answer, frames := cutHead(says)
				if _, err := stream.Write(answer); err != nil {
					t.Fatal(err)
				}
				if !upgrade {
					stream.Write(frames)
				}
				defer func() {
					if !upgrade {
						return
					}
					// The frames, which nobody changes.
					viewer.Write(rest)
					if got := readSize(t, stream, len(rest)); !bytes.Equal(got, rest) {
						t.Errorf("the viewer's frames: got %q, want %q", got, rest)
					}
					stream.Write(frames)
					_, want := cutHead(gets)
					if got := readSize(t, viewer, len(want)); !bytes.Equal(got, want) {
						t.Errorf("the upstream's frames: got %q, want %q", got, want)
					}
				}()
			}
			wantHead, wantBody := cutHead(gets)
			gotHead, gotBody := readHead(t, viewer)
			sameLines(t, "the answer", gotHead, wantHead)
			if !upgrade {
				gotBody = append(gotBody, readSize(t, viewer, len(wantBody)-len(gotBody))...)
				if !bytes.Equal(gotBody, wantBody) {
					t.Errorf("the answer's body: got %q, want %q", gotBody, wantBody)
				}
			}
		})
	}
}

func cutHead(b []byte) (head, rest []byte) {
	at := bytes.Index(b, []byte("\r\n\r\n")) + 4
	return b[:at], b[at:]
}

// readHead reads the head of a message, and perhaps more.
func readHead(t *testing.T, r io.Reader) (head, rest []byte) {
	t.Helper()
	var b []byte
	for !bytes.Contains(b, []byte("\r\n\r\n")) {
		part := make([]byte, 1)
		if _, err := io.ReadFull(r, part); err != nil {
			t.Fatalf("after %q: %v", b, err)
		}
		b = append(b, part...)
	}
	return cutHead(b)
}

func readSize(t *testing.T, r io.Reader, n int) []byte {
	t.Helper()
	b := make([]byte, max(n, 0))
	if n, err := io.ReadFull(r, b); err != nil {
		t.Fatalf("after %q: %v", b[:n], err)
	}
	return b
}

// sameLines compares heads as sets, but for dates, what is for one hop, the key
// that the originals make anew, and what they keep from viewers.
func sameLines(t *testing.T, what string, got, want []byte) {
	t.Helper()
	lines := func(b []byte) []string {
		first, rest, _ := strings.Cut(string(b), "\r\n")
		var all []string
		for line := range strings.SplitSeq(rest, "\r\n") {
			name, _, _ := strings.Cut(line, ":")
			switch strings.ToLower(name) {
			case "", "date", "connection", "sec-websocket-key", "x-origin-ws", "set-cookie":
			default:
				all = append(all, strings.ToLower(name)+line[len(name):])
			}
		}
		slices.Sort(all)
		return append([]string{first}, all...)
	}
	if g, w := lines(got), lines(want); !slices.Equal(g, w) {
		t.Errorf("%s:\n got %s\nwant %s", what, fmt.Sprintf("%q", g), fmt.Sprintf("%q", w))
	}
}
