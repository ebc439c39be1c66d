package hostile

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
)

// NewTextOnly starts a device that passes on text as it comes, and anything else
// when it has all of it. It knows no WebSockets either.
func NewTextOnly(t testing.TB, server string) (addr string) {
	t.Helper()
	return reverse(t, server, stripped, func(resp *http.Response) error {
		if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/") {
			return nil
		}
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		resp.Body.Close()
		resp.Body = io.NopCloser(bytes.NewReader(b))
		return nil
	})
}
