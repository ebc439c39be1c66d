package e2e

import (
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"testing"
)

func TestTrailersPassBothWays(t *testing.T) {
	t.Parallel()
	need(t, "go")
	addr := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Trailer", "Sum")
		io.WriteString(w, "body")
		w.Header().Set("Sum", "of "+r.Trailer.Get("Sent"))
	})
	s, _ := startHTTP(t, addr)
	req, err := http.NewRequestWithContext(t.Context(), "POST", s.hostURL("web")+"/", body(100_000))
	if err != nil {
		t.Fatal(err)
	}
	req.Trailer = http.Header{"Sent": {"all"}}
	resp, err := s.visitor(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "body" {
		t.Fatalf("got body %q, %v", b, err)
	}
	if got, want := resp.Trailer.Get("Sum"), "of all"; got != want {
		t.Errorf("got trailer %q, want %q", got, want)
	}
}

func TestInformationalResponsesPass(t *testing.T) {
	t.Parallel()
	need(t, "go")
	addr := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusOK)
	})
	s, _ := startHTTP(t, addr)
	var hints []string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			if code == http.StatusEarlyHints {
				hints = append(hints, h.Get("Link"))
			}
			return nil
		},
	})
	req, err := http.NewRequestWithContext(ctx, "GET", s.hostURL("web")+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.visitor(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("got status %s, want 200", resp.Status)
	}
	if len(hints) != 1 || hints[0] != "</style.css>; rel=preload" {
		t.Errorf("got early hints %q, want one with the link", hints)
	}
}
