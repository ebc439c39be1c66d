package forest

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"net"
	"testing"

	"adit/internal/testport"
)

// BenchmarkBulk carries bytes from an upstream to a visitor, with mutual TLS
// and both ends of this package in one process.
func BenchmarkBulk(b *testing.B) {
	ca := newAuthority(b, "ca")
	ca.make(&x509.Certificate{Subject: pkix.Name{CommonName: "server"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, "server")
	ca.client("home@example.com", "home")
	up, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer up.Close()
	const chunk = 1 << 20
	go func() {
		c, err := up.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		p := make([]byte, chunk)
		for {
			if _, err := c.Write(p); err != nil {
				return
			}
		}
	}()
	addr := make(chan string, 1)
	s, err := NewServer(ServerConfig{UseTls: true, Domain: "example.com", CaCertificateFilesGlob: ca.file("ca.crt"),
		ServerTlsCertificateFile: ca.file("server.crt"), ServerTlsKeyFile: ca.file("server.key")},
		ServerOptions{Listen: func(int) (net.Listener, error) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			addr <- ln.Addr().String()
			return ln, err
		}})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 2)
	defer func() { cancel(); <-done; <-done }()
	go func() { done <- s.Run(ctx) }()
	_, changed := s.agents.pick(nil)
	a, err := NewAgent(AgentConfig{ClientIdentifier: "home", ServerAddr: <-addr, UseTls: true, CaCertificateFilesGlob: ca.file("ca.crt"),
		ClientTlsCertificateFile: ca.file("home.crt"), ClientTlsKeyFile: ca.file("home.key"),
		ServiceToLocalAddrMap: map[string]string{"app": up.Addr().String()}}, AgentOptions{})
	if err != nil {
		b.Fatal(err)
	}
	go func() { done <- a.Run(ctx) }()
	<-changed
	port := int(testport.One(b))
	set, f, _, err := parseSet(fmt.Appendf(nil, `[{"ClientIdentifier":"home","ListenAddress":"127.0.0.1","ListenPort":%d,"BackEndService":"app"}]`, port), form{})
	if err == nil {
		err = s.apply(set, f)
	}
	if err != nil {
		b.Fatal(err)
	}
	c, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", port))
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	p := make([]byte, chunk)
	b.SetBytes(chunk)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := io.ReadFull(c, p); err != nil {
			b.Fatal(err)
		}
	}
}
