package server_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"adit/agent"
	"adit/dialect"
)

// TestSlowAnswers lets upstreams fall silent before an answer and within it, for
// so long that the server gives back what it does not need meanwhile. Nothing
// of any answer must be lost or mixed up with another's.
func TestSlowAnswers(t *testing.T) {
	t.Parallel()
	const silence = 150 * time.Millisecond // three times of what counts as slow
	var asked sync.Map                     // by who
	up := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		who := r.URL.Query().Get("who")
		piece := bytes.Repeat([]byte(who+" "), 2000) // some 10 KB
		got, _ := io.ReadAll(r.Body)
		flush := http.NewResponseController(w).Flush
		time.Sleep(silence)
		switch r.URL.Path {
		case "/long-poll":
			w.Write(piece)
		case "/early-hints":
			w.WriteHeader(http.StatusEarlyHints)
			time.Sleep(silence)
			w.Write(piece)
		case "/length":
			w.Header().Set("Content-Length", fmt.Sprint(3*len(piece)))
			for range 3 {
				w.Write(piece)
				flush()
				time.Sleep(silence)
			}
		case "/events":
			w.Header().Set("Trailer", "Who")
			for range 3 {
				w.Write(piece)
				flush()
				time.Sleep(silence)
			}
			w.Header().Set("Who", who)
		case "/long events": // in larger buffers
			for range 3 {
				w.Write(bytes.Repeat(piece, 60))
				flush()
				time.Sleep(silence)
			}
		case "/again": // the first request is never answered
			if _, again := asked.LoadOrStore(who, true); !again {
				if c, _, err := http.NewResponseController(w).Hijack(); err == nil {
					c.Close()
				}
				return
			}
			w.Write(piece)
		case "/echo":
			w.Write(got)
		}
	})
	f := start(t, nil)
	f.agent(t, nil, newTunnel(t, agent.Tunnel{ID: "web", Kind: dialect.HTTP}, up)).up(t)
	for _, tt := range []struct {
		path   string
		body   int // bytes of the request's, over which who is repeated
		pieces int // of the answer
	}{
		{"/long-poll", 0, 1},
		{"/again", 0, 1},
		{"/early-hints", 0, 1},
		{"/length", 0, 3},
		{"/events", 0, 3},
		{"/long%20events", 0, 180},
		{"/echo", 3000, 0},
		{"/echo", 300000, 0},
	} {
		t.Run(fmt.Sprintf("%s/%d", tt.path, tt.body), func(t *testing.T) {
			t.Parallel()
			var wg sync.WaitGroup
			defer wg.Wait()
			for i := range 4 {
				who := fmt.Sprintf("visitor-%d", i)
				v := f.visitor(t)
				url := fmt.Sprintf("http://web.%s%s?who=%s", domain, tt.path, who)
				sent := strings.Repeat(who+" ", tt.body/len(who))
				want := strings.Repeat(who+" ", 2000*tt.pieces)
				method := "GET"
				if tt.body > 0 {
					method, want = "POST", sent
				}
				wg.Go(func() {
					for range 2 { // on the same conn
						resp, got, err := askFor(v, method, url, sent)
						switch {
						case err != nil:
							t.Errorf("%s: %v", who, err)
							return
						case resp.StatusCode != http.StatusOK || got != want:
							t.Errorf("got status %d and %d bytes, want 200 and %d bytes, all of %s", resp.StatusCode, len(got), len(want), who)
						case tt.path == "/events" && resp.Trailer.Get("Who") != who:
							t.Errorf("got the trailer %v, want it to say %s", resp.Trailer, who)
						}
					}
				})
			}
		})
	}
}

func askFor(v *http.Client, method, url, body string) (*http.Response, string, error) {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return nil, "", err
	}
	resp, err := v.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return resp, string(got), err
}
