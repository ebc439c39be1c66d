package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// holdTime is how long the server keeps a visitor waiting for an agent that
// is away.
const holdTime = 30 * time.Second

// numbered is the upstream of a load: each path has an answer of its own.
func numbered(w http.ResponseWriter, r *http.Request) {
	w.Write(numberedBody(r.URL.Path))
}

func numberedBody(path string) []byte {
	n, _ := strconv.ParseInt(path[1:], 10, 64)
	return fmt.Appendf(piece(n, 2000)[:2000:2000], "%s", path)
}

// A load is visitors who GET one numbered answer after the other and report
// each. It ends with the test.
type load struct {
	answers chan answer
	last    time.Time
	gap     time.Duration // the longest time between two answers, as expect saw them
}

type answer struct {
	at  time.Time
	err error
}

// startLoad starts 8 visitors. With retry they ask again when the connection
// fails, as they must when the server itself is away; an answer that is not the
// right one always counts.
func startLoad(t *testing.T, s *server, retry bool) *load {
	t.Helper()
	l := &load{answers: make(chan answer, 64)}
	visitor := s.visitor(t)
	ctx, cancel := context.WithCancel(t.Context())
	var last atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for ctx.Err() == nil {
				err := ask(ctx, visitor, s.hostURL("web")+"/"+strconv.FormatInt(last.Add(1), 10), retry)
				select {
				case l.answers <- answer{time.Now(), err}:
				case <-ctx.Done():
				}
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return l
}

// ask makes one request of a load.
func ask(ctx context.Context, visitor *http.Client, url string, retry bool) error {
	ctx, cancel := context.WithTimeout(ctx, holdTime)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
		if err != nil {
			return err
		}
		var got []byte
		resp, err := visitor.Do(req)
		if err == nil {
			got, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		switch {
		case err == nil && resp.StatusCode != http.StatusOK:
			return fmt.Errorf("GET %s: status %s: %.200s", url, resp.Status, got)
		case err == nil && !bytes.Equal(got, numberedBody(req.URL.Path)):
			return fmt.Errorf("GET %s: a wrong answer of %d bytes: %.200q", url, len(got), got)
		case err == nil || !retry:
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("GET %s: not within the hold time: %w", url, err)
		case <-again.C:
		}
	}
}

// expect waits for n answers and fails the test if one is wrong.
func (l *load) expect(t *testing.T, n int) {
	t.Helper()
	timeout := time.NewTimer(2 * holdTime)
	defer timeout.Stop()
	for range n {
		select {
		case a := <-l.answers:
			if a.err != nil {
				t.Fatal(a.err)
			}
			if !l.last.IsZero() {
				l.gap = max(l.gap, a.at.Sub(l.last))
			}
			l.last = a.at
		case <-timeout.C:
			t.Fatalf("no answers for %s", 2*holdTime)
		}
	}
}
