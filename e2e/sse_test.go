package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"slices"
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
	seen := make(chan struct{}, events) // by the visitor
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
			select { // the next is not sent before this one has arrived
			case <-seen:
			case <-r.Context().Done():
				return
			}
			select {
			case <-tick.C:
			case <-r.Context().Done():
				return
			}
		}
	})
	s, _ := startHTTP(t, addr)
	ctx, cancel := context.WithTimeout(t.Context(), lasts+30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", s.hostURL("web")+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.visitor(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var took []time.Duration
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		text, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		sent, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			t.Fatalf("event %d: %v", len(took), err)
		}
		took = append(took, time.Since(time.Unix(0, sent)))
		select {
		case seen <- struct{}{}:
		default: // there are more than were sent
		}
	}
	if err := lines.Err(); err != nil {
		t.Errorf("after %d events: %v", len(took), err)
	}
	if len(took) != events {
		t.Fatalf("got %d events, want %d, each before the next is sent", len(took), events)
	}
	slices.Sort(took) // a busy machine holds up some of them
	if most := took[events/2]; most > every/2 {
		t.Errorf("half of the events took %s and more, want at most %s", most, every/2)
	}
	t.Logf("%d events in %s, the slowest took %s", events, lasts, took[events-1])
}
