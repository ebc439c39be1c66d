package carrier

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/url"

	"adit/internal/wayout"
)

// connect opens the conn that a carrier runs on, with TLS if the URL says so,
// where one of the protocols is agreed on. Every carrier gets its conn here.
// dialled is what is below TLS: closing it, unlike conn, takes no time. ctx
// bounds only this. The error is a *DialError.
func (d *Dialer) connect(ctx context.Context, t *target, protocols ...string) (conn, dialled net.Conn, err error) {
	conn, dialled, err = d.reach(ctx, t, protocols...)
	if err == nil && d.Connected != nil {
		d.Connected()
	}
	return conn, dialled, err
}

func (d *Dialer) reach(ctx context.Context, t *target, protocols ...string) (conn, dialled net.Conn, err error) {
	out := wayout.Dialer{}
	if d.Out != nil {
		out = *d.Out
	}
	if d.DialContext != nil {
		out.DialContext = d.DialContext
	}
	server := &url.URL{Scheme: "http", Host: t.addr}
	if t.secure {
		server.Scheme = "https"
	}
	dialled, err = out.Dial(ctx, server)
	if err != nil {
		return nil, nil, failed(ctx, PhaseDial, t.addr, err)
	}
	if !t.secure {
		return dialled, dialled, nil
	}
	config := d.tlsConfig(t.name, protocols)
	secured, err := wayout.Secure(ctx, dialled, config)
	if err != nil {
		dialled.Close()
		return nil, nil, failed(ctx, PhaseTLS, config.ServerName, err)
	}
	return secured, dialled, nil
}

// failed returns the error of a phase, which may be that ctx has ended.
func failed(ctx context.Context, phase Phase, target string, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		err = cause
	}
	return &DialError{Phase: phase, Target: target, Err: err}
}

// nobodyBetween reports whether nothing that does not know WebSocket can see
// the bytes of conn: they are encrypted, or do not leave this machine.
func nobodyBetween(conn net.Conn, t *target) bool {
	if t.secure {
		return true
	}
	if e, ok := conn.(interface{ Encrypted() bool }); ok && e.Encrypted() {
		return true
	}
	tcp, ok := conn.(*net.TCPConn)
	return ok && loopback(tcp)
}

// tlsConfig returns the configuration for a handshake with name.
func (d *Dialer) tlsConfig(name string, protocols []string) *tls.Config {
	config := &tls.Config{}
	if d.TLS != nil {
		config = d.TLS.Clone()
	}
	config.NextProtos = protocols
	config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
	if config.ServerName == "" {
		config.ServerName = name
	}
	return config
}
