package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"strconv"
)

// checkServer checks the URL of a server. Its errors repeat nothing of a URL
// that may hold a password.
func checkServer(s string) error {
	const want = "want ws:// or wss:// and a host, such as wss://tunnel.example.com"
	u, err := url.Parse(s)
	if err != nil {
		return usagef("--server: malformed: %s", want)
	}
	if u.User != nil {
		return usagef("--server: it must not contain a user or password; credentials go into --secret-file or %s", envToken)
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return usagef("--server: it must not contain '?' or '#': %s", want)
	}
	switch u.Scheme {
	case "ws", "wss", "http", "https":
	default:
		return usagef("--server %q: %s", s, want)
	}
	if u.Hostname() == "" {
		return usagef("--server %q: %s", s, want)
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return usagef("--server %q: port %s: 1 to 65535 are allowed", s, port)
		}
	}
	return nil
}

// isPrivate reports whether nobody can listen on the way to a server whose URL
// checkServer accepts: it has TLS, or stays on this machine.
func isPrivate(server string) bool {
	u, err := url.Parse(server)
	if err != nil {
		return false
	}
	a, err := netip.ParseAddr(u.Hostname())
	return u.Scheme == "wss" || u.Scheme == "https" || u.Hostname() == "localhost" || err == nil && a.IsLoopback()
}

// tlsConfig trusts the authorities of a file besides those of the system. It
// is nil without a file.
func tlsConfig(caFile string) (*tls.Config, error) {
	if caFile == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("--ca-file: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, usagef("--ca-file %q: no certificate in it: want PEM, which begins with -----BEGIN CERTIFICATE-----", caFile)
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, nil
}
