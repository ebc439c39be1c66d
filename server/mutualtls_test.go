package server_test

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"adit/agent"
	"adit/auth"
	"adit/internal/testca"
	"adit/policy"
	"adit/server"
)

// visitors of all kinds come to what asks for certificates.
type certVisitors struct {
	good, wrongCA, expired, wrongUse, notYet tls.Certificate
}

func newCertVisitors(t *testing.T, ca *testca.Authority) certVisitors {
	return certVisitors{
		good:    ca.Issue(t, testca.Client("visitor")),
		wrongCA: testca.New(t).Issue(t, testca.Client("visitor")),
		expired: ca.Issue(t, func(c *x509.Certificate) {
			testca.Client("visitor")(c)
			c.NotAfter = time.Now().Add(-time.Minute)
		}),
		notYet: ca.Issue(t, func(c *x509.Certificate) {
			testca.Client("visitor")(c)
			c.NotBefore = time.Now().Add(time.Minute)
		}),
		wrongUse: ca.Issue(t, testca.Server("visitor")),
	}
}

// mustShow checks that url of the server is there for a good certificate alone.
func mustShow(t *testing.T, f *fixture, roots *x509.CertPool, visitors certVisitors, url string) {
	t.Helper()
	for _, tt := range []struct {
		name string
		cert *tls.Certificate
		want int
	}{
		{"good", &visitors.good, 200}, {"none", nil, 403}, {"wrong authority", &visitors.wrongCA, 403},
		{"expired", &visitors.expired, 403}, {"not yet valid", &visitors.notYet, 403}, {"wrong usage", &visitors.wrongUse, 403},
	} {
		v := f.secureVisitor(t, roots, tt.cert)
		v.Transport.(*http.Transport).TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(10)
		for _, time := range []string{"first", "second"} {
			resp, body := fetch(t, v, "GET", url, "")
			if resp.StatusCode != tt.want || tt.want == 403 && resp.Header.Get("Adit-Error") != "certificate-required" {
				t.Errorf("%s, %s time: got %s %s, want %d", tt.name, time, resp.Status, body, tt.want)
			}
			if resp.TLS.DidResume {
				t.Errorf("%s, %s time: the session was resumed", tt.name, time)
			}
			v.CloseIdleConnections() // the next time could resume the session
		}
	}
}

func TestMutualTLSOfServer(t *testing.T) {
	t.Parallel()
	ca, visitors := testca.New(t), testca.New(t)
	f := start(t, withTLS(t, ca, func(o *server.Options) { o.Policy = policy.Policy{VisitorCA: string(visitors.PEM)} }))
	// Agents are no visitors.
	f.agent(t, func(o *agent.Options) {
		o.Server = "wss://" + f.TLSAddr().String()
		o.TLS = &tls.Config{RootCAs: ca.Pool}
	}, httpTunnel(t, "web", saying(t, "web"))).up(t)
	mustShow(t, f, ca.Pool, newCertVisitors(t, visitors), "https://web."+domain+"/")
	mustShow(t, f, ca.Pool, newCertVisitors(t, visitors), "https://"+domain+"/web/")
	if status, _ := f.get(t, f.visitor(t), "web."+domain, "/"); status != 403 {
		t.Errorf("without TLS: got %d, want 403", status)
	}
}

// Two tunnels ask for certificates of different authorities, a third for none.
// Nobody gets from one to the other, by whatever name the handshake was.
func TestMutualTLSOfTunnel(t *testing.T) {
	t.Parallel()
	ca, aCA, bCA := testca.New(t), testca.New(t), testca.New(t)
	f := start(t, withTLS(t, ca))
	with := func(tun agent.Tunnel, authority *testca.Authority) agent.Tunnel {
		var err error
		if tun.Policy, err = (policy.Policy{VisitorCA: string(authority.PEM)}).Encode(); err != nil {
			t.Fatal(err)
		}
		return tun
	}
	f.agent(t, nil, with(httpTunnel(t, "a", saying(t, "a")), aCA), with(httpTunnel(t, "b", saying(t, "b")), bCA),
		httpTunnel(t, "open", saying(t, "open"))).up(t)
	mustShow(t, f, ca.Pool, newCertVisitors(t, aCA), "https://a."+domain+"/")
	mustShow(t, f, ca.Pool, newCertVisitors(t, aCA), "https://"+domain+"/a/")

	ofA := aCA.Issue(t, testca.Client("visitor"))
	for _, tt := range []struct {
		asked, host string
		want        int
	}{
		{"a", "a", 200}, {"open", "open", 200}, {"a", "open", 200},
		{"open", "a", 421}, // it was not asked for a certificate there; the next conn is
		{"a", "b", 403}, {"b", "b", 403},
		{"b", "a", 200}, // a's authority has signed the one that was shown
	} {
		v := f.secureVisitor(t, ca.Pool, &ofA)
		req, err := http.NewRequest("GET", "https://"+tt.asked+"."+domain, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = tt.host + "." + domain
		resp, err := v.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != tt.want {
			t.Errorf("handshake for %s, request for %s: got %s, want %d", tt.asked, tt.host, resp.Status, tt.want)
		}
	}
}

func TestAgentsByCertificate(t *testing.T) {
	t.Parallel()
	ca, agents := testca.New(t), testca.New(t)
	grants := filepath.Join(t.TempDir(), "grants.yaml")
	if err := os.WriteFile(grants, []byte("grants:\n- certificate: {cn: builder}\n  ids: [web]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	authenticator, err := auth.NewAuthenticator(auth.Options{Authorities: agents.File(t), Grants: grants})
	if err != nil {
		t.Fatal(err)
	}
	f := start(t, withTLS(t, ca, func(o *server.Options) { o.Auth = authenticator }))
	by := func(cert tls.Certificate) func(*agent.Options) {
		return func(o *agent.Options) {
			o.Server = "wss://" + f.TLSAddr().String()
			o.Token = nil
			o.TLS = &tls.Config{RootCAs: ca.Pool, Certificates: []tls.Certificate{cert}}
		}
	}
	f.agent(t, by(agents.Issue(t, testca.Client("builder"))), httpTunnel(t, "web", saying(t, "web"))).up(t)
	for name, cert := range map[string]tls.Certificate{
		"another one's name": agents.Issue(t, testca.Client("stranger")),
		"another authority":  ca.Issue(t, testca.Client("builder")),
		"for servers":        agents.Issue(t, testca.Server("builder")),
	} {
		a := f.agent(t, by(cert), httpTunnel(t, "web", saying(t, "no")))
		var got error
		select {
		case <-a.over:
			got = a.stop()
		case s := <-refusedState(a):
			got = s.Err
		case <-time.After(patience):
		}
		if got == nil {
			t.Errorf("%s: got in", name)
		}
		a.stop()
	}
}

// refusedState returns the first state that is a refusal.
func refusedState(a *runningAgent) <-chan agent.State {
	c := make(chan agent.State, 1)
	go func() {
		for {
			select {
			case s := <-a.states:
				if s.Phase == agent.Refused || s.Phase == agent.Connected {
					c <- s
					return
				}
			case <-a.over:
				return
			}
		}
	}()
	return c
}
