package doctor

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"adit/internal/hostile"
	"adit/internal/testca"
	"adit/internal/wayout"
)

// In each hostile network the culprit is named first, and the carriers that get
// through are found.
func TestHostileNetworks(t *testing.T) {
	t.Parallel()
	ours, theirs := testca.New(t), testca.New(t)
	fresh := func(c *x509.Certificate) {
		testca.Server(hostname)(c)
		c.NotAfter = time.Now().Add(90 * 24 * time.Hour)
	}
	good, foreign := ours.Issue(t, fresh), theirs.Issue(t, fresh)
	resigned := func(t *testing.T) string {
		return "wss://" + hostile.NewResigner(t, serve(t, newHandler(t), &good), &tls.Config{Certificates: []tls.Certificate{foreign}})
	}
	plain := func(t *testing.T) string { return serve(t, newHandler(t), nil) }
	for _, tt := range []struct {
		name    string
		server  func(t *testing.T) Options
		code    string // of the first finding
		status  Status // of the whole
		says    string // in the first finding
		through string // carriers that work
		tries   int    // of which one has to say so, where a busy machine can look like a slow network; 0 means 1
	}{
		{name: "strips Upgrade", server: func(t *testing.T) Options {
			return Options{Server: "ws://" + hostile.NewStripper(t, plain(t))}
		}, code: "upgrade-stripped", status: Warning, says: "takes the Upgrade out", through: "stream poll"},
		{name: "buffers to the end", server: func(t *testing.T) Options {
			return Options{Server: "ws://" + hostile.NewBuffer(t, plain(t), 0)}
		}, code: "buffering", status: Warning, says: "holds responses back", through: "poll"},
		{name: "buffers 64 KiB", server: func(t *testing.T) Options {
			return Options{Server: "ws://" + hostile.NewBuffer(t, plain(t), 64<<10)}
		}, code: "buffering", status: Warning, says: "--carrier poll", through: "poll"},
		{name: "kills connections", server: func(t *testing.T) Options {
			return Options{Server: "ws://" + hostile.NewKiller(t, plain(t), 5*time.Second), held: quickHold}
		}, code: "lifetime", status: Warning, says: "after 5", through: "websocket stream poll", tries: 3},
		{name: "repeats requests", server: func(t *testing.T) Options {
			return Options{Server: "ws://" + hostile.NewRepeater(t, plain(t))}
		}, code: "duplicates", status: Warning, says: "a second time", through: "stream poll"},
		{name: "delays", server: func(t *testing.T) Options {
			return Options{Server: "ws://" + hostile.NewDelay(t, plain(t), 300*time.Millisecond)}
		}, code: "slow", status: Warning, says: "holds everything back", through: "websocket stream poll", tries: 3},
		{name: "wants NTLM", server: func(t *testing.T) Options {
			p := hostile.NewProxy(t, hostile.ProxyOptions{Login: hostile.NTLM("NTLM", "CORP", "me", "secret")})
			return through(p, Options{Server: "ws://" + plain(t)}, nil)
		}, code: "proxy-auth", status: Failed, says: "NTLM"},
		{name: "does not take the login", server: func(t *testing.T) Options {
			p := hostile.NewProxy(t, hostile.ProxyOptions{Login: hostile.Basic("me", "secret")})
			return through(p, Options{Server: "ws://" + plain(t)}, url.UserPassword("me", "hunter2"))
		}, code: "proxy-auth", status: Failed, says: "does not accept the login"},
		{name: "proxy forbids", server: func(t *testing.T) Options {
			p := hostile.NewProxy(t, hostile.ProxyOptions{Refuse: func(string) int { return http.StatusForbidden }})
			return through(p, Options{Server: "ws://" + plain(t)}, nil)
		}, code: "proxy-refuses", status: Failed, says: "port 443"},
		{name: "good proxy", server: func(t *testing.T) Options {
			p := hostile.NewProxy(t, hostile.ProxyOptions{Login: hostile.Basic("me", "hunter2")})
			return through(p, Options{Server: "ws://" + plain(t)}, url.UserPassword("me", "hunter2"))
		}, status: OK, through: "websocket stream poll"},
		{name: "re-signs TLS", server: func(t *testing.T) Options {
			return Options{Server: resigned(t), TLS: trusting(ours)}
		}, code: "tls-resigned", status: Failed, says: issuer(theirs.Cert)},
		{name: "re-signs TLS, and is trusted", server: func(t *testing.T) Options {
			return Options{Server: resigned(t), TLS: trusting(ours, theirs)}
		}, code: "tls-resigned", status: Warning, says: issuer(theirs.Cert), through: "websocket stream poll"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			opts := tt.server(t)
			if opts.held == 0 {
				opts.held = 500 * time.Millisecond
			}
			var r *Report
			code, says := "", ""
			for try := 0; try == 0 || try < tt.tries && (code != tt.code || !strings.Contains(says, tt.says)); try++ {
				began := time.Now()
				var err error
				if r, err = Examine(t.Context(), opts); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began); took > 30*time.Second {
					t.Errorf("it took %v, want less than 30 s", took)
				}
				if len(r.Findings) > 0 {
					f := r.Findings[0]
					code, says = f.Code, f.Culprit+" "+f.Remedy
				}
			}
			if code != tt.code || !strings.Contains(says, tt.says) || r.Status != tt.status {
				t.Errorf("the culprit is %q, %q, and all is %s; want %q, %q, %s", code, says, r.Status, tt.code, tt.says, tt.status)
			}
			var works []string
			for _, c := range r.Carriers {
				if c.Status != Failed {
					works = append(works, c.Name)
				}
			}
			if got := strings.Join(works, " "); got != tt.through {
				t.Errorf("%q get through, want %q: %+v", got, tt.through, r.Carriers)
			}
			for _, f := range r.Findings {
				if strings.Contains(f.Culprit+f.Remedy, "hunter2") {
					t.Errorf("finding %+v has the password", f)
				}
			}
		})
	}
}

// through returns opts with a way out through a proxy.
func through(p *hostile.Proxy, opts Options, user *url.Userinfo) Options {
	via := &url.URL{Scheme: "http", Host: p.Addr, User: user}
	opts.Out = &wayout.Dialer{Proxy: func(*url.URL) (*url.URL, error) { return via, nil }}
	opts.ProxyFrom = "--proxy"
	return opts
}

// A carrier of requests whose path somebody else knows is no way past Admit.
func TestCarrierPathAlone(t *testing.T) {
	t.Parallel()
	h := NewHandler(HandlerOptions{Admit: func(netip.Addr) error { return errTooMany }})
	defer h.Close()
	addr := serve(t, h, nil)
	for _, path := range []string{connectPath, carrierPath} {
		resp, err := http.Post("http://"+addr+path, "application/octet-stream", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode/100 != 4 {
			t.Errorf("POST %s: %d, want a refusal", path, resp.StatusCode)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}
