package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"adit/agent"
	"adit/auth"
	"adit/config"
	"adit/internal/kerberos"
	"adit/internal/wayout"
	"adit/tunnel"
)

// wayOutFlags are the flags that say how an agent gets to its server.
type wayOutFlags struct {
	proxy        string
	passwordFile string
	schemes      []string
	sni          string
	host         string
	headers      []string
	headerFile   string
}

// defaultSchemes are all ways to log in to a proxy.
var defaultSchemes = []string{"negotiate", "ntlm", "basic"}

func (f *wayOutFlags) add(fl *pflag.FlagSet) {
	fl.StringVar(&f.proxy, "proxy", "", "proxy to reach the server through: http://, https://, socks5:// or socks5h://, and host:port; direct for none (default by HTTPS_PROXY, ALL_PROXY and NO_PROXY)")
	fl.StringVar(&f.passwordFile, "proxy-password-file", "", "file with USER:PASSWORD for --proxy, or with the password alone if the URL has a user; it is read for each connection")
	fl.StringSliceVar(&f.schemes, "proxy-auth", defaultSchemes, "ways to log in that an HTTP proxy may be answered with, of which the strongest is taken")
	fl.StringVar(&f.sni, "sni", "", "name to ask for in TLS, which the server's certificate must have too (default the host of --server)")
	fl.StringVar(&f.host, "server-host", "", "Host to ask for in requests to the server (default that of --server)")
	fl.StringArrayVar(&f.headers, "server-header", nil, "header field to send to the server, for what stands before it, such as 'X-Env: dev'; may be given several times")
	fl.StringVar(&f.headerFile, "server-header-file", "", "file with such header fields, one in each line; for those that nobody else should read")
}

// apply puts the way out into the options of an agent, which have the TLS of
// --ca-file and no more.
func (f *wayOutFlags) apply(p *program, o *agent.Options) error {
	var problems []error
	wrong := func(err error) { problems = append(problems, err) }
	out, err := f.dialer(p)
	wrong(err)
	out.TLS = o.TLS // without the certificate that the server sees
	o.Out, o.Host = out, f.host
	o.Header, err = f.header()
	wrong(err)
	if strings.ContainsFunc(f.host, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`/\?#@`, r) }) {
		wrong(usagef("--server-host %q: want a host, and a port if need be, such as tunnel.example.com", f.host))
	}
	if f.sni != "" {
		if err := tunnel.CheckHostname(f.sni); err != nil {
			wrong(usagef("--sni: %v", err))
		}
		if strings.HasPrefix(o.Server, "ws:") || strings.HasPrefix(o.Server, "http:") {
			wrong(usagef("--sni is of no use with %s, which has no TLS: want wss://", strings.SplitAfter(o.Server, "//")[0]))
		}
		o.TLS = o.TLS.Clone() // nil stays nil
		if o.TLS == nil {
			o.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		o.TLS.ServerName = f.sni
	}
	return config.Join(problems...)
}

// dialer returns the way out, which is never nil, and what is wrong with it.
func (f *wayOutFlags) dialer(p *program) (*wayout.Dialer, error) {
	proxy, err := f.proxies(p)
	schemes, serr := proxySchemes(f.schemes)
	return &wayout.Dialer{Proxy: proxy, Schemes: schemes, Negotiate: kerberos.New(p.getenv).Token}, config.Join(err, serr)
}

// proxies returns what chooses the proxy.
func (f *wayOutFlags) proxies(p *program) (func(*url.URL) (*url.URL, error), error) {
	switch f.proxy {
	case "":
		if f.passwordFile != "" {
			return nil, usagef("--proxy-password-file: it is for --proxy, which is missing")
		}
		return wayout.Environment(p.getenv), nil
	case "direct", "none":
		if f.passwordFile != "" {
			return nil, usagef("--proxy-password-file: it is of no use with --proxy %s", f.proxy)
		}
		return nil, nil
	}
	u, err := wayout.ParseProxy(f.proxy)
	if err != nil {
		return nil, usagef("--proxy: %v", err)
	}
	if f.passwordFile == "" {
		return func(*url.URL) (*url.URL, error) { return u, nil }, nil
	}
	if _, has := u.User.Password(); has {
		return nil, usagef("--proxy-password-file: --proxy has a password already: want one of them")
	}
	withPassword := func(*url.URL) (*url.URL, error) {
		user, err := readProxyLogin(f.passwordFile, u.User)
		if err != nil {
			return nil, fmt.Errorf("--proxy-password-file: %w", err)
		}
		with := *u
		with.User = user
		return &with, nil
	}
	_, err = withPassword(nil)
	return withPassword, err
}

// proxySchemes returns ways to log in, none of which may be unknown.
func proxySchemes(names []string) (schemes []string, err error) {
	schemes = []string{}
	for _, name := range names {
		i := slices.IndexFunc(wayout.Schemes, func(s string) bool { return strings.EqualFold(s, name) })
		if i < 0 {
			return nil, usagef("--proxy-auth %q: negotiate, ntlm and basic are allowed", name)
		}
		schemes = append(schemes, wayout.Schemes[i])
	}
	return schemes, nil
}

// maxProxyLogin bounds the file with a user and a password, in bytes.
const maxProxyLogin = 4 << 10

// readProxyLogin reads the login for a proxy. Its errors repeat nothing of it.
func readProxyLogin(path string, user *url.Userinfo) (*url.Userinfo, error) {
	b, err := auth.ReadPrivate(path, maxProxyLogin)
	if err != nil {
		return nil, err
	}
	text := string(bytes.TrimRight(b, "\r\n"))
	if strings.ContainsAny(text, "\r\n") {
		return nil, fmt.Errorf("%s has more than one line", path)
	}
	if user != nil {
		if text == "" {
			return nil, fmt.Errorf("%s is empty: want the password", path)
		}
		return url.UserPassword(user.Username(), text), nil
	}
	name, password, ok := strings.Cut(text, ":")
	if !ok || name == "" {
		return nil, fmt.Errorf("%s: want USER:PASSWORD, since --proxy has no user", path)
	}
	return url.UserPassword(name, password), nil
}

// header returns the fields of --server-header and its file. Errors repeat no
// value.
func (f *wayOutFlags) header() (http.Header, error) {
	lines, err := headerFields("server-header-file", f.headerFile, f.headers)
	if err != nil {
		return nil, err
	}
	var problems []error
	h := http.Header{}
	for _, line := range lines {
		flag := "server-header"
		if !slices.Contains(f.headers, line) {
			flag = "server-header-file"
		}
		name, value, ok := strings.Cut(line, ":")
		switch {
		case !ok:
			problems = append(problems, usagef("--%s: a field without ':': want one such as 'X-Env: dev'", flag))
		case strings.EqualFold(name, "Host"):
			problems = append(problems, usagef("--%s: Host: see --server-host", flag))
		default:
			h.Add(name, strings.TrimSpace(value))
		}
	}
	return h, config.Join(problems...)
}

// warn says what others can see of the way out.
func (f *wayOutFlags) warn(p *program, log *slog.Logger) {
	u, err := wayout.ParseProxy(f.proxy)
	if err != nil {
		return
	}
	if _, has := u.User.Password(); has && slices.ContainsFunc(p.args, func(a string) bool { return strings.Contains(a, f.proxy) }) {
		log.Warn("everybody on this machine can see the password of the proxy in the list of processes: use --proxy-password-file, or " + envName("proxy"))
	}
}

// proxyRemedy says in parentheses which setting helps against what stands in
// the way to the server; empty if none does.
func proxyRemedy(e *wayout.Error) string {
	socks := strings.HasPrefix(e.Proxy, "socks")
	switch e.Kind {
	case wayout.LoginNeeded:
		known := func(scheme string) bool { return slices.Contains(wayout.Schemes, scheme) }
		if len(e.Offers) > 0 && !slices.ContainsFunc(e.Offers, known) {
			return " (none of which adit knows)"
		}
		ticket := ""
		if slices.Contains(e.Offers, wayout.Negotiate) {
			ticket = "get a ticket with kinit, or "
		}
		return " (" + ticket + "give user and password in --proxy-password-file, or in the URL in " + envName("proxy") + " or HTTPS_PROXY)"
	case wayout.LoginRefused:
		domain := ""
		if slices.Contains(e.Offers, wayout.NTLM) {
			domain = `; for NTLM with the domain, as in CORP\me`
		}
		return " (look at user and password, in --proxy-password-file, " + envName("proxy") + " or HTTPS_PROXY" + domain + ")"
	case wayout.Forbidden:
		return " (most proxies let port 443 alone be reached: have the server listen there, or ask whoever runs the proxy)"
	case wayout.Unreachable, wayout.Setting:
		return " (look at --proxy, or HTTPS_PROXY and ALL_PROXY; --proxy direct does without)"
	case wayout.NoProxy:
		if socks {
			return " (is it an HTTP proxy? then --proxy http://)"
		}
		return " (is it a SOCKS proxy? then --proxy socks5h://; --proxy direct does without)"
	case wayout.Untrusted:
		return " (if your network does so, --ca-file names its authority as one more to trust)"
	}
	return ""
}

// wayOutReason says what stands in the way, and which setting helps. ok is false
// if err is about something else.
func wayOutReason(err error) (text string, ok bool) {
	e, ok := errors.AsType[*wayout.Error](err)
	if !ok {
		return "", false
	}
	switch {
	case e.Kind == wayout.Unreachable && e.Err != nil:
		return "proxy " + e.Proxy + ": " + cause(e.Err) + proxyRemedy(e), true
	case e.Proxy != "" && errors.Is(e.Err, context.DeadlineExceeded):
		return "proxy " + e.Proxy + ": no answer in time: it may not reach " + e.Server + ", or speak something else than its URL says", true
	}
	return e.Error() + proxyRemedy(e), true
}
