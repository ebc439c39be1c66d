package e2e

import (
	"bufio"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Each event must arrive by itself, soon after it was sent: nothing on the way
// may gather them, or end a stream because it lasts.
func TestServerSentEventsArriveOneByOne(t *testing.T) {
	t.Parallel()
	need(t, "go")
	const every = 500 * time.Millisecond
	lasts := 3 * time.Second
	if long() {
		lasts = 90 * time.Second
	}
	events := int(lasts / every)
	addr := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/events" {
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		tick := time.NewTicker(every)
		defer tick.Stop()
		for range events {
			fmt.Fprintf(w, "data: %d\n\n", time.Now().UnixNano())
			http.NewResponseController(w).Flush()
			select {
			case <-tick.C:
			case <-r.Context().Done():
				return
			}
		}
	})
	s, _ := startHTTP(t, addr)
	req, err := http.NewRequestWithContext(t.Context(), "GET", s.hostURL("web")+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.visitor(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, slowest := 0, time.Duration(0)
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		text, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		sent, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			t.Fatalf("event %d: %v", got, err)
		}
		got++
		slowest = max(slowest, time.Since(time.Unix(0, sent)))
	}
	if err := lines.Err(); err != nil {
		t.Errorf("after %d events: %v", got, err)
	}
	if got != events {
		t.Errorf("got %d events, want %d", got, events)
	}
	if slowest > every {
		t.Errorf("an event took %s, want at most %s, when the next is sent", slowest, every)
	}
	t.Logf("%d events in %s, the slowest took %s", got, lasts, slowest)
}
