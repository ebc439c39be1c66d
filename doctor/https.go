package doctor

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"adit/internal/wayout"
)

const (
	maxSkew   = 2 * time.Minute     // of clocks
	soon      = 14 * 24 * time.Hour // for a certificate to expire
	maxAnswer = 64 << 10            // bytes
)

// askProxy gets a connection through the proxy, if there is one.
func (x *examination) askProxy(ctx context.Context) bool {
	if x.proxy == nil {
		x.step("proxy", time.Time{}, Skipped, "none: straight to the server")
		return true
	}
	x.begin("proxy: asking for a connection to the server")
	began := time.Now()
	conn, err := x.open(ctx)
	name := fmt.Sprintf("%s (%s)", x.report.Proxy, x.opts.ProxyFrom)
	if err == nil {
		conn.Close()
		x.step("proxy", began, OK, "%s: it connects to %s", name, addrOf(x.url))
		return true
	}
	x.step("proxy", began, Failed, "%s: %s", name, proxyReason(err))
	x.blameProxy(err)
	return false
}

// open opens a connection to the server, through the proxy if there is one.
func (x *examination) open(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	return x.out.Dial(ctx, x.url)
}

func proxyReason(err error) string {
	e, ok := errors.AsType[*wayout.Error](err)
	switch {
	case ok && e.Kind == wayout.Unreachable && e.Err != nil:
		return reason(e.Err)
	case ok:
		bare := *e
		bare.Proxy = ""
		return plain(bare.Error(), 160)
	}
	return reason(err)
}

// blameProxy says why a proxy does not connect to the server.
func (x *examination) blameProxy(err error) {
	name, from, server := x.report.Proxy, x.opts.ProxyFrom, addrOf(x.url)
	e, ok := errors.AsType[*wayout.Error](err)
	if !ok {
		e = &wayout.Error{}
	}
	takes := ""
	if len(e.Offers) > 0 {
		takes = ", with " + strings.Join(e.Offers, " or ")
	}
	if e.StatusCode != 0 {
		takes += fmt.Sprintf(" (%d)", e.StatusCode)
	}
	const login = "Give user and password with --proxy-password-file, in a file with USER:PASSWORD; for NTLM the user is DOMAIN\\user."
	switch e.Kind {
	case wayout.LoginNeeded:
		x.find("proxy-auth", Failed, fmt.Sprintf("The proxy %s wants a login%s.", name, takes), login)
	case wayout.LoginRefused:
		x.find("proxy-auth", Failed, fmt.Sprintf("The proxy %s does not accept the login that it was shown%s.", name, takes), login)
	case wayout.Forbidden:
		x.find("proxy-refuses", Failed, fmt.Sprintf("The proxy %s does not let %s be reached: its rules forbid it.", name, server),
			"Ask whoever runs the proxy to allow that name and port. Many allow port 443 alone: the server may have to listen there.")
	case wayout.ServerUnreachable:
		x.find("proxy-refuses", Failed, fmt.Sprintf("The proxy %s cannot reach %s.", name, server),
			"Check that the server runs and can be reached from outside; if it can, ask whoever runs the proxy.")
	case wayout.Untrusted:
		x.find("proxy", Failed, fmt.Sprintf("The certificate of the proxy %s is signed by %q, which this machine does not trust.", name, plain(e.Issuer, 80)),
			"Give the certificate of that authority with --ca-file.")
	default:
		x.find("proxy", Failed, fmt.Sprintf("The proxy %s does not do what it should: %s.", name, proxyReason(err)),
			fmt.Sprintf("Check the proxy's URL, which is from %s: its scheme says what it speaks, http, https or socks5.", from))
	}
}

// secure does the TLS handshake and looks at the server's certificate.
func (x *examination) secure(ctx context.Context) bool {
	began := time.Now()
	if x.url.Scheme != "https" {
		x.step("tls", time.Time{}, Skipped, "the server's URL is without TLS")
		return true
	}
	x.begin("tls: shaking hands")
	raw, err := x.open(ctx)
	if err != nil {
		x.step("tls", began, Failed, "%s", reason(err))
		x.find("unreachable", Failed, fmt.Sprintf("No connection to %s: %s.", addrOf(x.url), reason(err)), "Try again; if that happens again, the way to the server is not reliable.")
		return false
	}
	defer raw.Close()
	config := x.tlsConfig()
	roots := config.RootCAs
	// The certificate is verified below, where there is more to say about it than
	// an error. Nothing secret goes over this conn: not even a client certificate.
	config.InsecureSkipVerify = true
	config.Certificates, config.GetClientCertificate = nil, nil
	conn := tls.Client(raw, config)
	limited, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	if err := conn.HandshakeContext(limited); err != nil {
		x.step("tls", began, Failed, "%s", reason(err))
		x.blameHandshake(err)
		return false
	}
	state := conn.ConnectionState()
	err = verify(state, config.ServerName, roots, time.Now())
	x.leaf = state.PeerCertificates[0]
	if err == nil {
		x.step("tls", began, OK, "%s, %s", tls.VersionName(state.Version), describe(state.PeerCertificates[0]))
		if left := time.Until(state.PeerCertificates[0].NotAfter); left < soon {
			x.find("certificate-expires", OK, fmt.Sprintf("The server's certificate is good for %s more.", short(left)), "Whoever runs the server has to renew it by then.")
		}
		return true
	}
	x.step("tls", began, Failed, "%s; %s", describe(state.PeerCertificates[0]), certificateReason(err))
	x.blameCertificate(conn, state, err)
	return false
}

func verify(state tls.ConnectionState, name string, roots *x509.CertPool, now time.Time) error {
	between := x509.NewCertPool()
	for _, c := range state.PeerCertificates[1:] {
		between.AddCert(c)
	}
	_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{DNSName: name, Roots: roots, Intermediates: between, CurrentTime: now})
	return err
}

func describe(c *x509.Certificate) string {
	return fmt.Sprintf("certificate signed by %s, good until %s", issuer(c), c.NotAfter.UTC().Format(time.DateOnly))
}

func issuer(c *x509.Certificate) string {
	if c.Issuer.CommonName != "" {
		return fmt.Sprintf("%q", plain(c.Issuer.CommonName, 80))
	}
	return fmt.Sprintf("%q", plain(c.Issuer.String(), 80))
}

func certificateReason(err error) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "this machine does not trust that authority"
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok && e.Reason == x509.Expired {
		return "that is not good now"
	}
	return plain(strings.TrimPrefix(err.Error(), "x509: "), 160)
}

func (x *examination) blameHandshake(err error) {
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		x.find("no-tls", Failed, fmt.Sprintf("What answers at %s does not speak TLS.", addrOf(x.url)), "Check the port, and whether --server should begin with ws:// instead.")
		return
	}
	x.find("tls", Failed, fmt.Sprintf("The TLS handshake with %s fails: %s.", x.host, reason(err)),
		"Something on the way may not let this name through: ask whoever runs the network whether it filters by name. Otherwise look at the server's log.")
}

// blameCertificate says why the certificate is not accepted. It asks whoever
// answers for the time, and whether it is the server itself.
func (x *examination) blameCertificate(conn *tls.Conn, state tls.ConnectionState, err error) {
	leaf := state.PeerCertificates[0]
	said, date := x.peek(conn)
	skew, known := skewOf(date)
	expired, _ := errors.AsType[x509.CertificateInvalidError](err)
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	switch {
	case expired.Reason == x509.Expired && known && verify(state, x.tlsConfig().ServerName, x.tlsConfig().RootCAs, time.Now().Add(skew)) == nil:
		x.find("clock", Failed, fmt.Sprintf("The clock of this machine is %s: certificates seem to be out of date.", off(skew)), "Set the clock, best with NTP (timedatectl set-ntp true).")
	case expired.Reason == x509.Expired:
		x.find("certificate-expired", Failed, fmt.Sprintf("The certificate of %s is good from %s until %s.", x.host, leaf.NotBefore.UTC().Format(time.DateOnly), leaf.NotAfter.UTC().Format(time.DateOnly)),
			"Whoever runs the server has to renew it. Check the clock of this machine too.")
	case unknown && said != nil && said.Binding != "" && said.Binding == bindingOf(&state):
		x.find("authority", Failed, fmt.Sprintf("The server's own certificate is signed by %s, which this machine does not trust.", issuer(leaf)),
			"Give the certificate of that authority with --ca-file; for adit server --dev-tls it is dev-tls/dev-tls.pem in its data folder.")
	case unknown:
		x.find("tls-resigned", Failed, fmt.Sprintf("TLS seems to be opened on the way: the certificate for %s is signed by %s, which this machine does not trust.", x.host, issuer(leaf)),
			"If that is your organisation's and may read all that goes through, give its certificate with --ca-file. Otherwise ask whoever runs the network for an exception for this name.")
	default:
		x.find("certificate", Failed, fmt.Sprintf("The certificate at %s is not for the server: %s.", addrOf(x.url), certificateReason(err)),
			"Check the name in --server. Where everything leads to a page to log in or to pay, do that first.")
	}
}

// peek asks whoever is at the other end of conn, which is not trusted, what it is.
func (x *examination) peek(conn net.Conn) (*info, string) {
	conn.SetDeadline(time.Now().Add(stepTime))
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: adit\r\nConnection: close\r\n\r\n", x.url.Path+Path, x.url.Host)
	resp, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, maxAnswer)), nil)
	if err != nil {
		return nil, ""
	}
	defer resp.Body.Close()
	said := new(info)
	if json.NewDecoder(resp.Body).Decode(said) != nil {
		said = nil
	}
	return said, resp.Header.Get("Date")
}

// skewOf returns by how much the time of an answer is ahead of this machine's.
func skewOf(date string) (skew time.Duration, known bool) {
	at, err := http.ParseTime(date)
	if err != nil {
		return 0, false
	}
	return time.Until(at), true
}

func off(skew time.Duration) string {
	if skew > 0 {
		return short(skew) + " slow"
	}
	return short(-skew) + " fast"
}
