package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"adit/internal/errorpage"
	"adit/internal/headerrule"
	"adit/internal/http1"
	"adit/internal/httprelay"
	"adit/internal/webhook"
	"adit/tunnel"
)

// Rules are what the agent itself does with the HTTP requests of a tunnel, which
// then pass through it message by message and not as bytes. The zero Rules are
// none.
type Rules struct {
	// SetRequest and SetResponse are header fields, each "Name: value", that
	// take the place of those that are there; a Set-Cookie is added. First
	// those of RemoveRequest and RemoveResponse, which are names, are taken
	// out. Fields about the conn, the length of the body and the visitor
	// cannot be set.
	SetRequest, SetResponse       []string
	RemoveRequest, RemoveResponse []string

	// Host is what the upstream gets as Host: "" that of the visitor,
	// "rewrite" the upstream's own address, anything else a host with or
	// without port. Where it is not the visitor's, fields that repeat it
	// (Origin, Referer, Location, Set-Cookie and the like) are rewritten on
	// their way in and out.
	Host string

	// Webhook, if not nil, lets only signed requests through.
	Webhook *Webhook
}

// Webhook says how requests have to be signed.
type Webhook struct {
	// Scheme is "github", "stripe", "slack", "svix", "standard", "shopify",
	// or "hmac:" with parameters; see docs/requests.md.
	Scheme string

	// Secrets are those that may have signed, one to ten.
	Secrets []string

	// Tolerance is how far the signed time may be from ours, where there is
	// one; 0 means 5 min.
	Tolerance time.Duration
}

// IsZero reports whether r has no rule.
func (r Rules) IsZero() bool {
	return r.SetRequest == nil && r.SetResponse == nil && r.RemoveRequest == nil && r.RemoveResponse == nil &&
		r.Host == "" && r.Webhook == nil
}

// A RuleError says which field of Rules is wrong. It holds no secret.
type RuleError struct {
	Field string
	Err   error // names the value and what is allowed
}

func (e *RuleError) Error() string { return "agent: " + e.Field + ": " + e.Err.Error() }
func (e *RuleError) Unwrap() error { return e.Err }

// With returns an upstream that applies rules to what u gets, for HTTP tunnels.
// The error is a *RuleError if one of them is wrong. log, which may be nil, gets what goes
// wrong.
func (u *Upstream) With(rules Rules, log *slog.Logger) (*Upstream, error) {
	if u.ln != nil {
		return nil, fmt.Errorf("agent: rules for %s: a listener takes conns as they are", u)
	}
	switch {
	case u.http2:
		return nil, fmt.Errorf("agent: rules for %s: they are for upstreams that speak HTTP/1.1", u)
	case u.proxy != 0:
		return nil, fmt.Errorf("agent: rules for %s, which gets headers of the PROXY protocol: its conns are for all visitors then", u)
	}
	opts := httprelay.Options{Handler: u.handler, Explain: explainDial, Logger: log}
	if u.handler == nil {
		opts.Dial = func(ctx context.Context) (net.Conn, error) { return u.dial(ctx, tunnel.StreamInfo{}) }
	}
	for _, part := range []struct {
		name        string
		set, remove []string
	}{
		{"SetRequest", rules.SetRequest, nil},
		{"RemoveRequest", nil, rules.RemoveRequest},
		{"SetResponse", rules.SetResponse, nil},
		{"RemoveResponse", nil, rules.RemoveResponse},
	} {
		if _, err := headerrule.New(part.set, part.remove); err != nil {
			return nil, &RuleError{part.name, err}
		}
	}
	var err error
	if opts.Request, err = headerrule.New(rules.SetRequest, rules.RemoveRequest); err != nil {
		return nil, &RuleError{"SetRequest", err}
	}
	if opts.Response, err = headerrule.New(rules.SetResponse, rules.RemoveResponse); err != nil {
		return nil, &RuleError{"SetResponse", err}
	}
	if opts.Scheme, opts.Host, err = u.origin(rules.Host); err != nil {
		return nil, &RuleError{"Host", err}
	}
	if w := rules.Webhook; w != nil {
		opts.Webhook, err = webhook.New(webhook.Options{Scheme: w.Scheme, Secrets: w.Secrets, Tolerance: w.Tolerance})
		if err != nil {
			return nil, &RuleError{"Webhook", err}
		}
	}
	return &Upstream{addr: u.String(), handler: httprelay.New(opts), behind: u}, nil
}

// origin returns what the upstream is to know itself as.
func (u *Upstream) origin(rule string) (scheme, host string, err error) {
	if scheme = "http"; u.tls != nil {
		scheme = "https"
	}
	switch {
	case rule == "":
		return "", "", nil
	case rule != "rewrite":
		if _, _, ok := http1.SplitHost([]byte(rule)); !ok {
			return "", "", fmt.Errorf("%.80q: want rewrite, or a host such as app.internal or localhost:3000", rule)
		}
		return scheme, strings.ToLower(rule), nil
	case u.network == "":
		return "", "", fmt.Errorf("rewrite: %s has no address of its own", u)
	case u.network == "unix":
		return scheme, "localhost", nil
	}
	return scheme, u.addr, nil
}

// explainDial is what visitors are told of an upstream that is not reached.
func explainDial(err error) errorpage.Page {
	if code, _ := dialFailure(err); code == tunnel.RefuseUpstreamTimeout {
		return errorpage.Page{Code: code.String(), Status: http.StatusGatewayTimeout, Text: "The service did not answer in time."}
	}
	return errorpage.Page{Code: tunnel.RefuseUpstreamRefused.String(), Status: http.StatusBadGateway, Text: "The agent could not connect to its service."}
}
