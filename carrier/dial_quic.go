package carrier

import (
	"context"
	"errors"
	"net"
	"net/url"

	"adit/carrier/quicconn"
	"adit/internal/wsconn"
)

// PhaseQUIC is the handshake of QUIC, which is that of TLS too.
const PhaseQUIC Phase = "quic handshake"

// CheckQUIC reports what DialQUIC would object to, before it dials.
func (d *Dialer) CheckQUIC() error {
	t, err := d.check()
	if err != nil {
		return err
	}
	if !t.secure {
		return errors.New("carrier: URL: QUIC always has TLS: want wss://")
	}
	if d.Out != nil {
		via, err := d.Out.Via(&url.URL{Scheme: "https", Host: t.addr})
		if err == nil && via != nil {
			return errors.New("carrier: QUIC does not go through a proxy")
		}
	}
	return nil
}

// DialQUIC is Dial over QUIC: to the UDP port of the URL's number instead of the
// TCP port. The URL has the scheme wss or https; there is no way through a
// proxy, and DialContext is not used.
func (d *Dialer) DialQUIC(ctx context.Context) (*wsconn.Conn, error) {
	if err := d.CheckQUIC(); err != nil {
		return nil, err
	}
	t, err := d.check()
	if err != nil {
		return nil, err
	}
	config := d.tlsConfig(t.name, nil)
	// What is dialled is encrypted, and so the WebSocket on it has no TLS.
	inner := *d
	inner.Out, inner.TLS = nil, nil
	inner.URL = (&url.URL{Scheme: "ws", Host: t.addr}).String() + t.uri
	if inner.Host == "" {
		inner.Host = t.host
	}
	var failure error
	inner.DialContext = func(ctx context.Context, _, addr string) (net.Conn, error) {
		conn, err := quicconn.Dial(ctx, addr, config)
		if err != nil {
			failure = failed(ctx, PhaseQUIC, addr, err)
			return nil, err
		}
		return conn, nil
	}
	conn, err := inner.Dial(ctx)
	if failure != nil {
		return nil, failure
	}
	return conn, err
}
