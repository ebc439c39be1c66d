package websocktunnel

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	askTimeout    = 10 * time.Second
	maxVersion    = 4 << 10 // bytes of the answer
	newWindow     = 4 << 20 // what servers take in since newWindowFrom
	newWindowFrom = "93.1.5"
)

// askWindow asks a server for its version, as it is served beside the tunnel
// when it runs from its container image, and returns how many bytes it takes in
// on a stream without having given credit; 0 if it does not tell.
func (d *dialer) askWindow(ctx context.Context) int {
	if d.config.family() != Websocktunnel {
		return 0 // none of the others takes more than 4096
	}
	u, err := parseServer(d.config.Server)
	if err != nil {
		return 0
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	u = u.JoinPath("/__version__")
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return 0
	}
	tr := &http.Transport{
		TLSClientConfig:   d.opts.TLS,
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.connect(ctx, u)
		},
	}
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(r)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	var answer struct{ Version string }
	if resp.StatusCode != http.StatusOK || json.NewDecoder(io.LimitReader(resp.Body, maxVersion)).Decode(&answer) != nil {
		return 0
	}
	if !atLeast(strings.TrimPrefix(answer.Version, "v"), newWindowFrom) {
		return 0
	}
	return newWindow
}

// atLeast compares versions of three numbers. What is no such version is less
// than any.
func atLeast(version, least string) bool {
	a, b := strings.Split(version, "."), strings.Split(least, ".")
	if len(a) != 3 {
		return false
	}
	var nums [3]int
	for i := range a {
		n, err := strconv.Atoi(a[i])
		if err != nil || n < 0 {
			return false
		}
		nums[i] = n
	}
	for i := range b {
		want, _ := strconv.Atoi(b[i])
		if nums[i] != want {
			return nums[i] > want
		}
	}
	return true
}
