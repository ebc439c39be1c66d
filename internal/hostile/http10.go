package hostile

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
)

// NewHTTP10 starts a device that speaks HTTP/1.0 on both sides, with one request
// on each connection. Of what does not say how long it is, it passes on nothing
// before the end.
func NewHTTP10(t testing.TB, server string) (addr string) {
	t.Helper()
	return listen(t, func(ctx context.Context, c net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		s, err := new(net.Dialer).DialContext(ctx, "tcp", server)
		if err != nil {
			return
		}
		defer s.Close()
		defer context.AfterFunc(ctx, func() { s.Close() })()
		go func() { // ends with c, which listen closes
			c.Read(make([]byte, 1))
			s.Close()
		}()
		var b bytes.Buffer
		for _, name := range []string{"Connection", "Upgrade", "Content-Length", "Transfer-Encoding"} {
			r.Header.Del(name)
		}
		fmt.Fprintf(&b, "%s %s HTTP/1.0\r\nHost: %s\r\nContent-Length: %d\r\n", r.Method, r.RequestURI, r.Host, len(body))
		r.Header.Write(&b)
		b.WriteString("\r\n")
		b.Write(body)
		if _, err := s.Write(b.Bytes()); err != nil {
			return
		}
		resp, err := http.ReadResponse(bufio.NewReader(s), r)
		if err != nil {
			return
		}
		defer resp.Body.Close()
		fmt.Fprintf(c, "HTTP/1.0 %s\r\nConnection: close\r\n", resp.Status)
		resp.Header.Del("Connection")
		resp.Header.Write(c)
		if resp.ContentLength >= 0 {
			fmt.Fprint(c, "\r\n")
			io.Copy(c, resp.Body)
			return
		}
		if body, err = io.ReadAll(resp.Body); err == nil {
			fmt.Fprint(c, "\r\n")
			c.Write(body)
		}
	})
}
