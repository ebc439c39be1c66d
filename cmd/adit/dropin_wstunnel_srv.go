package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"adit/auth"
	"adit/dialect/wstunnel"
	"adit/policy"
	"adit/tunnel"
)

// serve is wstunnel srv.
func (w *wstunnelRun) serve(ctx context.Context, args []string) int {
	defer w.close()
	fl := flag.NewFlagSet("server", flag.ContinueOnError)
	port := fl.Int("port", 80, "port for http/ws server to listen on")
	host := fl.String("host", "0.0.0.0", "host for http/ws server to listen on")
	fl.StringVar(&w.pidFile, "pidfile", "", "path for pidfile")
	fl.StringVar(&w.logFile, "logfile", "", "path for log file")
	syslogTag := fl.String("syslog", "", "syslog facility to log to")
	wsTimeout := fl.Int("wstimeout", 30, "timeout on websocket in seconds")
	httpTimeout := fl.Int("httptimeout", 20*60, "timeout for http requests in seconds")
	fl.String("robowhois", "", "accepted and not used: the service that it is for is no more")
	passwords := fl.String("passwords", "", "passwords that tunnels need, as token:password,token:password (seen by all users of this machine: better -passwords-file)")
	passwordsFile := fl.String("passwords-file", "", "file with one token:password on each line")
	maxBody := fl.Int64("max-body", 0, "largest body in bytes to and from clients that are not adit (default and most 104857600)")
	maxRequests := fl.Int("max-requests-per-tunnel", 0, "requests of one token at a time, waiting ones included (default 16384)")
	maxClients := fl.Int("max-clients-per-token", 0, "clients that may be connected with one token at a time (default any number)")
	basePath := fl.String("base-path", "", "path below which all addresses are, such as /wstunnel")
	viewerTokens := fl.Bool("viewer-tokens", false, "callers need a token or link beside the tunnel's, which adit token viewer makes on this machine for the name that the log gives the tunnel")
	viewerKeyFile := fl.String("viewer-key-file", "", "file with the key of viewer tokens, instead of one of this machine")
	level := w.levelFlags(fl)
	if code, ok := w.parse(fl, args); !ok {
		return code
	}
	if err := w.writePid(); err != nil {
		return w.fail("Can't create pidfile", "path", w.pidFile, "err", err)
	}
	switch {
	case *syslogTag != "" && w.logFile != "":
		return w.fail("Can't log to syslog and logfile simultaneously")
	case *syslogTag != "":
		out, done, err := localSyslog(*syslogTag)
		if err != nil {
			return w.fail("Can't connect to syslog", "err", err)
		}
		w.closes = append(w.closes, done)
		w.logTo(out, syslogStyle, "WStunsrv")
	default:
		if err := w.openLog("WStunsrv"); err != nil {
			return w.fail("Can't create log file", "path", w.logFile, "err", err)
		}
	}
	if err := w.setLevel(*level); err != nil {
		return w.fail(err.Error())
	}
	known, err := readPasswords(*passwords, *passwordsFile)
	if err != nil {
		return w.fail(err.Error())
	}
	base, err := cleanBasePath(*basePath)
	if err != nil {
		return w.fail(err.Error())
	}
	var admit func(*http.Request, tunnel.ID) error
	if *viewerTokens || *viewerKeyFile != "" {
		viewers, err := newWstunnelViewers(w.p, *viewerKeyFile)
		if err != nil {
			return w.fail("Can't read -viewer-key-file", "err", err)
		}
		admit = viewers.admit
	}
	addr := *host + ":" + strconv.Itoa(*port)
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return w.fail("Cannot listen", "addr", addr, "err", err)
	}
	request := time.Duration(*httpTimeout) * time.Second
	if request == 0 {
		request = time.Nanosecond // the original takes 0 to the letter
	}
	w.log.Info("WStunnel starting", "version", wstunnelVersion)
	w.log.Info("Setting remote request timeout", "timeout", request)
	w.log.Info("Setting remote tunnel timeout", "timeout", clampTimeout(*wsTimeout))
	w.log.Info("Listening", "addr", l.Addr())
	s := wstunnel.NewServer(wstunnel.ServerOptions{
		PingTimeout: clampTimeout(*wsTimeout), RequestTimeout: request, Passwords: known,
		MaxBody: min(*maxBody, wstunnel.MaxMessage), MaxPending: *maxRequests, Log: w.log,
		MaxClients: *maxClients, BasePath: base, Admit: admit, LookupAddr: net.DefaultResolver.LookupAddr,
	})
	if err := s.Serve(ctx, l); err != nil {
		return w.fail("Server failed", "err", err)
	}
	return exitDone
}

// maxWstunnelPasswords bounds a file with passwords, in bytes.
const maxWstunnelPasswords = 16 << 20

// readPasswords reads token:password pairs, from a list or the lines of a file.
func readPasswords(list, file string) (map[string]string, error) {
	var pairs []string
	if list != "" {
		pairs = strings.Split(list, ",")
	}
	if file != "" {
		text, err := auth.ReadPrivate(file, maxWstunnelPasswords)
		if err != nil {
			return nil, fmt.Errorf("-passwords-file: %w", err)
		}
		for line := range strings.Lines(string(text)) {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				pairs = append(pairs, line)
			}
		}
	}
	known := make(map[string]string, len(pairs))
	for i, pair := range pairs {
		token, password, ok := strings.Cut(pair, ":")
		if !ok || token == "" || password == "" {
			return nil, fmt.Errorf("password %d is not of the form token:password", i+1)
		}
		known[token] = password
	}
	return known, nil
}

// cleanBasePath returns a base path as the server takes it: "" or "/a/b".
func cleanBasePath(s string) (string, error) {
	s = strings.TrimSuffix(s, "/")
	if s == "" {
		return "", nil
	}
	for _, c := range s {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/", c) {
			return "", fmt.Errorf("-base-path %q: letters, digits and -._~/ are allowed", s)
		}
	}
	if s[0] != '/' {
		s = "/" + s
	}
	if strings.Contains(s, "//") {
		return "", fmt.Errorf("-base-path %q: two slashes follow each other", s)
	}
	return s, nil
}

// wstunnelViewers let callers in who have a viewer token.
type wstunnelViewers struct {
	master auth.Secret

	mu     sync.Mutex // guards guards
	guards map[tunnel.ID]*policy.Guard
}

func newWstunnelViewers(p *program, keyFile string) (*wstunnelViewers, error) {
	master, err := p.viewerMaster(keyFile)
	if err != nil {
		return nil, err
	}
	v := &wstunnelViewers{master: master, guards: make(map[tunnel.ID]*policy.Guard)}
	_, err = v.guard("id") // finds keys of no use
	return v, err
}

// maxGuards bounds the guards that are kept, which remember links that were used.
const maxGuards = 1 << 16

func (v *wstunnelViewers) guard(id tunnel.ID) (*policy.Guard, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if g := v.guards[id]; g != nil {
		return g, nil
	}
	keys, err := keysOf(v.master, id)
	if err != nil {
		return nil, err
	}
	g, err := policy.NewGuard(id, policy.Policy{ViewerKeys: keys})
	if err == nil && len(v.guards) < maxGuards {
		v.guards[id] = g
	}
	return g, err
}

// admit implements wstunnel.ServerOptions.Admit. What it has looked at does not
// go on.
func (v *wstunnelViewers) admit(r *http.Request, id tunnel.ID) error {
	g, err := v.guard(id)
	if err != nil {
		return err
	}
	remote, _ := netip.ParseAddrPort(r.RemoteAddr)
	pass, err := g.Admit(r.Context(), &policy.Request{
		Visitor: remote.Addr().Unmap(), Method: r.Method, Target: r.URL.RequestURI(), Path: "/", Length: r.ContentLength,
		Values: r.Header.Values,
	})
	if denied, ok := errors.AsType[*policy.Denied](err); ok {
		return &wstunnel.StatusError{Code: http.StatusUnauthorized, Text: "A viewer token is required", Challenge: denied.Challenge}
	}
	switch {
	case err != nil:
		return err
	case pass.Redirect != nil: // it is for browsers, and would be for all tunnels of this host
		return &wstunnel.StatusError{Code: http.StatusUnauthorized, Text: "A viewer token is required in the header: Authorization: Bearer TOKEN", Challenge: "Bearer"}
	case pass.DropAuthorization:
		r.Header.Del("Authorization")
	}
	r.Header.Del("Adit-Viewer")
	return nil
}
