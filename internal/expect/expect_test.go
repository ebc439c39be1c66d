package expect_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"adit/internal/expect"
	"adit/internal/memnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// An upstream says 100 Continue, or does not, and answers with the Expect field
// that it got.
type upstream struct{ says bool }

func (u *upstream) serve(c net.Conn) {
	defer c.Close()
	r, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return
	}
	if u.says && r.Header.Get("Expect") != "" {
		io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
	}
	if r.URL.Path != "/no" {
		io.Copy(io.Discard, r.Body)
	}
	answer := r.Header.Get("Expect")
	fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(answer), answer)
}

func TestAsk(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		far := &upstream{says: true}
		tr := &http.Transport{
			DialContext: func(context.Context, string, string) (net.Conn, error) {
				a, b := memnet.Pipe()
				go far.serve(b)
				return a, nil
			},
			ExpectContinueTimeout: expect.Wait,
		}
		var u expect.Upstream
		for _, step := range []struct {
			name   string
			path   string
			expect string
			says   bool          // the upstream
			pass   time.Duration // before
			got    string        // by the upstream
			took   time.Duration
		}{
			{"it says so", "/", "100-continue", true, 0, "100-continue", 0},
			{"again", "/", "100-Continue", true, 0, "100-Continue", 0},
			{"no expectation", "/", "", false, 0, "", 0},
			{"it answers without the body", "/no", "100-continue", false, 0, "100-continue", 0},
			{"it says nothing", "/", "100-continue", false, 0, "100-continue", expect.Wait},
			{"it is not asked", "/", "100-continue", false, 0, "", 0},
			{"nor a little later", "/", "100-continue", true, 59 * time.Second, "", 0},
			{"it is asked again", "/", "100-continue", true, time.Second, "100-continue", 0},
			{"and says so", "/", "100-continue", true, 0, "100-continue", 0},
		} {
			time.Sleep(step.pass)
			far.says = step.says
			r, err := http.NewRequestWithContext(t.Context(), "POST", "http://upstream"+step.path, strings.NewReader("body"))
			if err != nil {
				t.Fatal(err)
			}
			if step.expect != "" {
				r.Header.Set("Expect", step.expect)
			}
			began := time.Now()
			resp, err := tr.RoundTrip(u.Ask(r))
			if err != nil {
				t.Fatalf("%s: %v", step.name, err)
			}
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if took := time.Since(began); string(got) != step.got || err != nil || took != step.took {
				t.Errorf("%s: the upstream got %q, %v after %v, want %q after %v", step.name, got, err, took, step.got, step.took)
			}
			if r.Header.Get("Expect") != step.expect {
				t.Errorf("%s: Ask changed the request that it was given", step.name)
			}
		}
	})
}
