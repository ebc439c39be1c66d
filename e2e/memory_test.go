package e2e

import (
	"fmt"
	"io"
	"net/http"
	"testing"
)

func TestLargeBodiesTakeConstantMemory(t *testing.T) {
	t.Parallel()
	need(t, "go")
	size := int64(256 << 20)
	if long() {
		size = 10 << 30
	}
	const grow = 64 << 20 // what windows, buffers and the garbage collector may take
	addr := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/down":
			w.Header().Set("Content-Length", fmt.Sprint(size))
			io.Copy(w, body(size))
		case "/up":
			if err := checkBody(r.Body, size); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
			}
		}
	})
	s, a := startHTTP(t, addr)
	visitor := s.visitor(t)
	serverBefore, _ := s.memory(t)
	agentBefore, _ := a.memory(t)

	for _, tt := range []struct {
		name, method, path string
		body               io.Reader
		want               int64
	}{
		{"download", "GET", "/down", nil, size},
		{"upload", "POST", "/up", body(size), 0},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, s.hostURL("web")+tt.path, tt.body)
		if err != nil {
			t.Fatal(err)
		}
		if tt.body != nil {
			req.ContentLength = size
		}
		resp, err := visitor.Do(req)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if resp.StatusCode != http.StatusOK {
			b, _ := io.ReadAll(resp.Body)
			t.Errorf("%s: got status %s: %s", tt.name, resp.Status, b)
		} else if err := checkBody(resp.Body, tt.want); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		resp.Body.Close()
		for _, p := range []struct {
			*process
			before int64
		}{{s.process, serverBefore}, {a, agentBefore}} {
			_, peak := p.memory(t)
			t.Logf("%s of %d MiB: the %s had %d MiB before and peaked at %d MiB", tt.name, size>>20, p.name, p.before>>20, peak>>20)
			if peak-p.before > grow {
				t.Errorf("%s: the memory of the %s grew by %d MiB, want at most %d", tt.name, p.name, (peak-p.before)>>20, grow>>20)
			}
		}
	}
}
