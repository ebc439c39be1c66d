package forest

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io/fs"
	"log"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const maxPEM = 16 << 20 // bytes of a file with certificates

// loadAuthorities reads all certificates in the files that glob matches. No
// file, and a file without certificates, make the pool just smaller, as in the
// original.
func loadAuthorities(glob string, logger *log.Logger) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	names, err := filepath.Glob(glob)
	if err != nil {
		return nil, fmt.Errorf("CaCertificateFilesGlob: %q: %w", glob, err)
	}
	for _, name := range names {
		b, err := readFile(name, maxPEM)
		if err != nil {
			return nil, fmt.Errorf("CaCertificateFilesGlob: %w", err)
		}
		if pool.AppendCertsFromPEM(b) {
			logger.Printf("certificates in %s are authorities", name)
		} else {
			logger.Printf("warning: %s has no certificate", name)
		}
	}
	if len(names) == 0 {
		logger.Printf("warning: no file matches %q, so no certificate is accepted", glob)
	}
	return pool, nil
}

// serverTLS returns how the server takes connections: with a certificate of an
// accepted authority that is not revoked.
func serverTLS(c ServerConfig, r *revoked, logger *log.Logger) (*tls.Config, error) {
	pool, err := loadAuthorities(c.authorities(), logger)
	if err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(c.ServerTlsCertificateFile, c.ServerTlsKeyFile)
	if err != nil {
		return nil, fmt.Errorf("ServerTlsCertificateFile, ServerTlsKeyFile: %w", err)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair},
		ClientCAs:    pool,
		ClientAuth:   tls.RequireAndVerifyClientCert,
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"h2", "http/1.1"},
		VerifyConnection: func(s tls.ConnectionState) error {
			return r.check(s.PeerCertificates)
		},
	}, nil
}

// agentTLS returns how the agent connects. The system's authorities are not
// used.
func agentTLS(c AgentConfig, logger *log.Logger) (*tls.Config, error) {
	pool, err := loadAuthorities(c.authorities(), logger)
	if err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(c.ClientTlsCertificateFile, c.ClientTlsKeyFile)
	if err != nil {
		return nil, fmt.Errorf("ClientTlsCertificateFile, ClientTlsKeyFile: %w", err)
	}
	return &tls.Config{
		RootCAs:    pool,
		MinVersion: tls.VersionTLS12,
		// Shown also to servers that do not ask for its authority, so that they
		// can say what is wrong with it.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil },
	}, nil
}

// A revoked is a file with certificates that are refused, which is read again
// when it changes: a list of an authority (PEM, "X509 CRL"), or lines of which
// each has the serial number of a certificate, or the SHA-256 of its bytes, in
// hexadecimal. Its methods are safe for concurrent use, and a nil one is empty.
type revoked struct {
	name   string
	logger *log.Logger

	mu      sync.Mutex // guards the fields below
	stamp   fs.FileInfo
	serials map[string]bool
	sums    map[string]bool
}

func openRevoked(name string, logger *log.Logger) (*revoked, error) {
	if name == "" {
		return nil, nil
	}
	r := &revoked{name: name, logger: logger}
	return r, r.refresh()
}

// refresh reads the file if it has changed. If it cannot, what it had goes on.
func (r *revoked) refresh() error {
	info, err := os.Stat(r.name)
	if err != nil {
		return fmt.Errorf("RevokedCertificatesFile: %w", err)
	}
	r.mu.Lock()
	same := r.stamp != nil && r.stamp.ModTime().Equal(info.ModTime()) && r.stamp.Size() == info.Size() && os.SameFile(r.stamp, info)
	r.mu.Unlock()
	if same {
		return nil
	}
	b, err := readFile(r.name, maxPEM)
	if err != nil {
		return fmt.Errorf("RevokedCertificatesFile: %w", err)
	}
	serials, sums, err := parseRevoked(b)
	if err != nil {
		return fmt.Errorf("RevokedCertificatesFile: %s: %w", r.name, err)
	}
	r.mu.Lock()
	r.stamp, r.serials, r.sums = info, serials, sums
	r.mu.Unlock()
	return nil
}

func parseRevoked(b []byte) (serials, sums map[string]bool, err error) {
	serials, sums = map[string]bool{}, map[string]bool{}
	for {
		block, rest := pem.Decode(b)
		if block == nil {
			break
		}
		if block.Type != "X509 CRL" {
			return nil, nil, fmt.Errorf("it has a PEM block of type %q, want X509 CRL", block.Type)
		}
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return nil, nil, err
		}
		for _, e := range list.RevokedCertificateEntries {
			serials[e.SerialNumber.Text(16)] = true
		}
		b = rest
	}
	for i, line := range strings.Split(string(b), "\n") {
		line, _, _ = strings.Cut(line, "#")
		word := strings.ToLower(strings.ReplaceAll(strings.TrimSpace(line), ":", ""))
		if word == "" {
			continue
		}
		n, ok := new(big.Int).SetString(word, 16)
		if !ok || n.Sign() < 0 || len(word) > 64 {
			return nil, nil, fmt.Errorf("line %d: got %q, want a serial number or a SHA-256 in hexadecimal", i+1, strings.TrimSpace(line))
		}
		if len(word) == 64 {
			sums[word] = true
		} else {
			serials[n.Text(16)] = true
		}
	}
	return serials, sums, nil
}

// check returns an error if the first certificate of chain is revoked.
func (r *revoked) check(chain []*x509.Certificate) error {
	if r == nil || len(chain) == 0 {
		return nil
	}
	if err := r.refresh(); err != nil {
		r.logger.Printf("warning: %v; what it had before goes on", err)
	}
	leaf := chain[0]
	sum := sha256.Sum256(leaf.Raw)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.serials[leaf.SerialNumber.Text(16)] || r.sums[hex.EncodeToString(sum[:])] {
		return fmt.Errorf("the certificate of %q with serial number %s is revoked", leaf.Subject.CommonName, leaf.SerialNumber.Text(16))
	}
	return nil
}

// revokedEvery is how often live sessions are looked at again.
const revokedEvery = 5 * time.Second
