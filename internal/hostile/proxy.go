package hostile

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// A Login judges who asks an HTTP proxy. It is made anew for each connection,
// since some ways to log in take several requests on one. It is given the value
// of Proxy-Authorization, and returns whether that is enough, and if not the
// values of Proxy-Authenticate to ask with.
type Login func(authorization string) (ok bool, challenges []string)

// Basic returns a way to log in with user and password (RFC 7617).
func Basic(user, password string) func() Login {
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
	return func() Login {
		return func(got string) (bool, []string) { return got == want, []string{`Basic realm="hostile"`} }
	}
}

// ProxyOptions configures a Proxy. The zero value lets everybody reach
// everything.
type ProxyOptions struct {
	// Login makes what judges who asks; nil lets everybody in.
	Login func() Login

	// Refuse returns the status that a request for addr is refused with; 0 is
	// none. It may be nil.
	Refuse func(addr string) int

	// OneRequest has the proxy close a connection that it has refused.
	OneRequest bool

	// TLS has it speak TLS.
	TLS *tls.Config
}

// A Proxy is an HTTP proxy that knows CONNECT alone.
type Proxy struct {
	Addr string

	mu    sync.Mutex // guards the fields below
	asked []string
}

// NewProxy starts a proxy.
func NewProxy(t testing.TB, opts ProxyOptions) *Proxy {
	t.Helper()
	p := &Proxy{}
	p.Addr = listen(t, func(ctx context.Context, c net.Conn) {
		c.SetDeadline(time.Now().Add(patience))
		if opts.TLS != nil {
			c = tls.Server(c, opts.TLS)
		}
		p.serve(ctx, c, opts)
	})
	return p
}

// Asked returns what the proxy was asked for so far: the address of each
// request, and the way to log in, such as "tunnel.example.com:443 Basic".
func (p *Proxy) Asked() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.asked...)
}

func (p *Proxy) serve(ctx context.Context, c net.Conn, opts ProxyOptions) {
	var login Login
	if opts.Login != nil {
		login = opts.Login()
	}
	r := bufio.NewReader(c)
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		shown := req.Header.Get("Proxy-Authorization")
		scheme, _, _ := strings.Cut(shown, " ")
		p.mu.Lock()
		p.asked = append(p.asked, strings.TrimSpace(req.Host+" "+scheme))
		p.mu.Unlock()
		status, challenges := judge(req, login, shown, opts.Refuse)
		if status == http.StatusOK {
			connect(ctx, c, r, req.Host)
			return
		}
		const page = "<p>no"
		fmt.Fprintf(c, "HTTP/1.1 %d No\r\nContent-Length: %d\r\n", status, len(page))
		for _, challenge := range challenges {
			fmt.Fprintf(c, "Proxy-Authenticate: %s\r\n", challenge)
		}
		if opts.OneRequest {
			fmt.Fprintf(c, "Connection: close\r\n\r\n%s", page)
			return
		}
		fmt.Fprintf(c, "\r\n%s", page)
	}
}

func judge(r *http.Request, login Login, shown string, refuse func(string) int) (status int, challenges []string) {
	if login != nil {
		if ok, challenges := login(shown); !ok {
			return http.StatusProxyAuthRequired, challenges
		}
	}
	if r.Method != http.MethodConnect {
		return http.StatusMethodNotAllowed, nil
	}
	if refuse != nil {
		if status := refuse(r.Host); status != 0 {
			return status, nil
		}
	}
	return http.StatusOK, nil
}

// connect relays between c, of which r has read some, and addr.
func connect(ctx context.Context, c net.Conn, r *bufio.Reader, addr string) {
	server, err := (&net.Dialer{Timeout: patience}).DialContext(ctx, "tcp", addr)
	if err != nil {
		fmt.Fprint(c, "HTTP/1.1 502 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		return
	}
	defer server.Close()
	fmt.Fprint(c, "HTTP/1.1 200 Connection established\r\n\r\n")
	c.SetDeadline(time.Time{})
	early, _ := r.Peek(r.Buffered())
	if _, err := server.Write(early); err != nil {
		return
	}
	join(ctx, c, server)
}
