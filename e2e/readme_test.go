package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
)

var anyURL = regexp.MustCompile(`http://[^\s"'<>]+`)

// The first thing that the README asks for.
func TestDemoOfREADMEPrintsURLThatAnswers(t *testing.T) {
	t.Parallel()
	c := aditCommand([]string{need(t, "go"), "run", "./cmd/adit", "demo"})
	c.Dir = ".."
	p := start(t, "demo", c)
	var url string
	p.waitLog(t, "a URL in what it prints", 2*time.Minute, func(log string) bool {
		// a whole line, so that the URL is not cut
		done := log[:strings.LastIndexByte(log, '\n')+1]
		url = anyURL.FindString(done)
		return url != ""
	})
	var d net.Dialer
	tr := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(addr)
		if err == nil && (host == "localhost" || strings.HasSuffix(host, ".localhost")) {
			addr = net.JoinHostPort("127.0.0.1", port) // RFC 6761, section 6.3, which not every resolver follows
		}
		return d.DialContext(ctx, network, addr)
	}}
	defer tr.CloseIdleConnections()
	visitor := &http.Client{Transport: tr}
	eventually(t, url+" answers", 10*time.Second, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
		if err != nil {
			return err
		}
		resp, err := visitor.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("status %s", resp.Status)
		}
		return nil
	})
}
