package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"

	"adit/agent"
	"adit/auth"
	"adit/carrier"
	"adit/dialect"
	"adit/dialect/native"
	"adit/session"
)

// A statusPrinter tells a person where the agents of this process stand.
type statusPrinter struct {
	out      io.Writer
	insecure bool // the way to the server can be listened to

	mu     sync.Mutex // held while printing
	agents []*standing
	warned bool
}

// insecureNote is for agents that have no TLS on the way to their server.
const insecureNote = "The way to the server is not encrypted, nor is the credential on it: see wss://."

// next returns the number of one more agent.
func (p *statusPrinter) next() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.agents = append(p.agents, &standing{})
	return len(p.agents) - 1
}

// A standing is what was printed last for an agent.
type standing struct {
	was  bool // connected before
	urls []string
	bad  []string // what was refused of its tunnels
	away string   // why it is not connected; empty if it is
}

// show prints the state of the agent with that number, unless it says the same
// as the last one.
func (p *statusPrinter) show(n int, s agent.State) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.agents[n]
	switch s.Phase {
	case agent.Connected:
		p.connected(a, s)
	case agent.Reconnecting:
		switch first := a.away == ""; {
		case s.Wait == 0 && first:
			a.away = "connection lost, trying again"
			fmt.Fprintln(p.out, a.away)
		case s.Wait == 0:
		case !a.was:
			p.away(a, "waiting for the server: "+reason(s.Err))
		default:
			p.away(a, "not connected, trying again: "+reason(s.Err))
		}
	case agent.Refused:
		p.away(a, "refused, trying again: "+reason(s.Err))
	}
}

func (p *statusPrinter) away(a *standing, why string) {
	if a.away != why {
		fmt.Fprintln(p.out, why)
	}
	a.away = why
}

func (p *statusPrinter) connected(a *standing, s agent.State) {
	urls, text := addresses(s.Tunnels, s.Bound)
	switch {
	case !slices.Equal(urls, a.urls):
		io.WriteString(p.out, text)
	case a.away != "" && a.was:
		fmt.Fprintln(p.out, "connected again")
	case a.away != "":
		fmt.Fprintln(p.out, "connected")
	}
	a.was = true
	var bad []string
	for i, err := range s.Errs {
		if err != nil {
			bad = append(bad, fmt.Sprintf("%s refused, trying again: %s", s.Tunnels[i].ID, reason(err)))
		}
	}
	if !slices.Equal(bad, a.bad) {
		for _, line := range bad {
			fmt.Fprintln(p.out, line)
		}
	}
	a.urls, a.bad, a.away = urls, bad, ""
	if p.insecure && !p.warned {
		p.warned = true
		fmt.Fprintln(p.out, insecureNote)
	}
}

// addresses says where the tunnels are found, best address first.
func addresses(tunnels []agent.Tunnel, bound []dialect.Bound) (urls []string, text string) {
	width := 0
	for _, b := range bound {
		urls = append(urls, b.URLs...)
		if len(b.URLs) > 0 {
			width = max(width, len(b.URLs[0]))
		}
	}
	var b strings.Builder
	for i, bd := range bound {
		for j, u := range bd.URLs {
			if j == 0 {
				fmt.Fprintf(&b, "%-*s  ->  %s\n", width, u, tunnels[i].Upstream)
			} else {
				fmt.Fprintln(&b, u)
			}
		}
	}
	return urls, b.String()
}

// reason says in a few words why an agent is not connected, and what helps.
func reason(err error) string {
	var (
		status   *carrier.StatusError
		dial     *carrier.DialError
		refused  *dialect.BindError
		rejected *session.RejectedError
		closed   *session.ClosedError
	)
	switch {
	case errors.As(err, &status):
		return statusReason(status)
	case errors.As(err, &refused):
		if refused.Code == dialect.BindForbidden {
			return refused.Reason // what this server does not give out is no matter of the credential
		}
		return refused.Reason + remedy(string(refused.Code))
	case errors.As(err, &rejected) && rejected.Gone():
		return "the server does not know the session any more, as after a restart"
	case errors.As(err, &rejected):
		return strings.TrimPrefix(rejected.Error(), "session: ")
	case errors.As(err, &closed):
		text := closed.Reason
		if text == "" {
			text = "the server ended the session"
		}
		if _, credential := native.Ended(err); credential {
			text += anotherCredential
		}
		return text
	case errors.As(err, &dial):
		text, out := wayOutReason(dial.Err)
		switch {
		case out && dial.Phase == carrier.PhaseDial:
			return text
		case dial.Phase == carrier.PhaseDial:
			return dial.Target + ": " + cause(dial.Err)
		case dial.Phase == carrier.PhaseTLS:
			return "TLS with " + dial.Target + ": " + cause(dial.Err)
		}
		return dial.Target + " does not answer as an adit server: " + cause(dial.Err)
	}
	return cause(err)
}

// statusReason is for a server that answered with something other than a
// session.
func statusReason(e *carrier.StatusError) string {
	if e.Code == "" {
		return fmt.Sprintf("the answer is %d, and not from an adit server that agents may use (is --server right?)", e.StatusCode)
	}
	text := e.Body
	if text == "" {
		text = e.Code
	}
	return text + remedy(e.Code)
}

// anotherCredential is the remedy for one that was good once.
const anotherCredential = " (get a new one: --secret-file and --cert are read again when they change, " + envToken + " takes a new start)"

// remedy says what to do about a code of docs/errors.md.
func remedy(code string) string {
	switch code {
	case string(auth.MissingCredential), string(auth.InvalidCredential):
		return " (give the server's secret or one of its tokens in --secret-file or " + envToken + ", or show a certificate with --cert)"
	case string(auth.ExpiredCredential), string(auth.RevokedCredential):
		return anotherCredential
	case string(auth.NotYetValid):
		return " (compare the clocks)"
	case string(auth.Forbidden):
		return " (adit token inspect says what a token allows)"
	case string(dialect.BindTaken):
		return " (choose another --id)"
	case string(dialect.BindPortInUse):
		return " (choose another port, or leave that to the server)"
	}
	return ""
}

// cause returns the innermost part of err that says something, without the
// addresses that the outer parts repeat.
func cause(err error) string {
	if text, ok := wayOutReason(err); ok {
		return text
	}
	var (
		errno   syscall.Errno
		dns     *net.DNSError
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		invalid x509.CertificateInvalidError
		record  tls.RecordHeaderError
		ne      net.Error
	)
	switch {
	case errors.As(err, &dns):
		if dns.IsNotFound {
			return "no such host"
		}
		return "its name cannot be looked up now"
	case errors.As(err, &errno):
		return errno.Error()
	case errors.As(err, &unknown):
		return "its certificate is signed by an unknown authority (--ca-file names one more to trust)"
	case errors.As(err, &name):
		return "its certificate is for another name"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "its certificate has expired, or is not valid yet"
	case errors.As(err, &record):
		return "it does not speak TLS (ws:// is without)"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &ne) && ne.Timeout():
		return "no answer in time"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection was closed"
	}
	return strings.TrimPrefix(strings.TrimPrefix(err.Error(), "session: "), "carrier: ")
}
