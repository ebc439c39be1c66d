package agent

import (
	"crypto/x509"

	"adit/tunnel"
)

// TrustOnly makes an https upstream trust these certificates alone.
func (u *Upstream) TrustOnly(roots *x509.CertPool) { u.tls.RootCAs = roots }

// Deliver does what the agent does with a stream whose upstream l is.
func (l *Listener) Deliver(in tunnel.Incoming) { l.deliver(in) }
