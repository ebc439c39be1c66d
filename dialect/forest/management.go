package forest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"
	"time"
)

// serveBoth is the one port of the later generation.
func (s *Server) serveBoth(w http.ResponseWriter, r *http.Request) {
	if path.Clean("/"+r.URL.Path) == controlPath {
		s.connect(w, r)
		return
	}
	s.manage(w, r, "404 not found")
}

// serveControl and serveManagement are the two of the first.
func (s *Server) serveControl(w http.ResponseWriter, r *http.Request) {
	switch path.Clean("/" + r.URL.Path) {
	case controlPath:
		s.connect(w, r)
	case "/ping":
		ping(w, r, "pong!")
	default:
		http.Error(w, "404 not found", http.StatusNotFound)
	}
}

func (s *Server) serveManagement(w http.ResponseWriter, r *http.Request) {
	s.manage(w, r, "404 not found. Try GET /ping or PUT /tunnels.")
}

func (s *Server) manage(w http.ResponseWriter, r *http.Request, notFound string) {
	if s.tls != nil && len(s.config.ManagementCommonNames) > 0 {
		if cn := r.TLS.PeerCertificates[0].Subject.CommonName; !slices.Contains(s.config.ManagementCommonNames, cn) {
			s.log.Printf("%s may not use the management interface: %q is not in ManagementCommonNames", r.RemoteAddr, cn)
			http.Error(w, "403 forbidden", http.StatusForbidden)
			return
		}
	}
	switch path.Clean("/" + r.URL.Path) {
	case "/ping":
		ping(w, r, "pong")
	case "/clients":
		if r.Method != http.MethodGet {
			w.Header().Set("Allow", "PUT") // as the original
			http.Error(w, "405 Method Not Allowed", http.StatusMethodNotAllowed)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Write(s.agents.list())
	case "/tunnels":
		s.putTunnels(w, r)
	default:
		if r.Method == http.MethodConnect && r.URL.Path == "" {
			notFound = "404 not found"
		}
		http.Error(w, notFound, http.StatusNotFound)
	}
}

func ping(w http.ResponseWriter, r *http.Request, pong string) {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", "GET")
		http.Error(w, "405 method not allowed", http.StatusMethodNotAllowed)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	io.WriteString(w, pong)
}

func (s *Server) putTunnels(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method != http.MethodPut:
		w.Header().Set("Allow", "PUT")
		http.Error(w, "405 Method Not Allowed", http.StatusMethodNotAllowed)
		return
	case r.Header.Get("Content-Type") != "application/json":
		http.Error(w, "415 Unsupported Media Type: Content-Type must be application/json", http.StatusUnsupportedMediaType)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxSet))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		http.Error(w, fmt.Sprintf("413 the set is larger than %d bytes", maxSet), http.StatusRequestEntityTooLarge)
		return
	}
	set, f, null, perr := parseSet(body, form{ports: s.config.twoPort(), backPorts: s.config.twoPort()})
	if err != nil || perr != nil {
		s.log.Printf("PUT /tunnels from %s: %v", r.RemoteAddr, errors.Join(err, perr))
		http.Error(w, "422 Unprocessable Entity: Can't Parse JSON", http.StatusUnprocessableEntity)
		return
	}
	status, text := s.checkClients(set, f)
	if status == 0 {
		status, text = s.statusOf(s.apply(set, f))
	}
	if status != 0 {
		s.log.Printf("PUT /tunnels from %s changed nothing: %s", r.RemoteAddr, text)
		http.Error(w, text, status)
		return
	}
	answer := []byte("null")
	if !null {
		answer, _ = appendSet(set, f)
	}
	s.log.Printf("PUT /tunnels from %s: %d tunnels", r.RemoteAddr, len(set))
	w.Header().Set("Content-Type", "application/json")
	io.Copy(w, bytes.NewReader(answer))
}

// checkClients reports who is not connected. The very first state of the
// original took tunnels of agents that were to come.
func (s *Server) checkClients(set []Entry, f form) (status int, text string) {
	if f.proxyName {
		return 0, ""
	}
	for _, e := range set {
		state := s.agents.state(e.ClientIdentifier)
		for _, id := range e.FailoverClientIdentifiers {
			if s.agents.state(id) == stateConnected {
				state = stateConnected // one is enough
			}
		}
		switch state {
		case stateConnected:
		case "":
			return http.StatusNotFound, fmt.Sprintf("Client %s Not Found", e.ClientIdentifier)
		default:
			return http.StatusNotFound, fmt.Sprintf("Client %s is not connected it is %s", e.ClientIdentifier, state)
		}
	}
	return 0, ""
}

// statusOf returns what the original answers for an error of apply. What it
// does not say is in the log.
func (s *Server) statusOf(err error) (status int, text string) {
	var address *addressError
	var listen *listenError
	switch {
	case err == nil:
		return 0, ""
	case errors.As(err, &address):
		return http.StatusBadRequest, "Bad Request: " + address.Error()
	case errors.As(err, &listen) && portTaken(err):
		s.log.Printf("PUT /tunnels: %v", err)
		name := listen.key.addr.String()
		if !listen.key.addr.IsValid() {
			name = fmt.Sprintf(":%d", listen.key.port)
		}
		return http.StatusConflict, fmt.Sprintf("Port Conflict Port %s already in use", name)
	case errors.As(err, &listen):
		s.log.Printf("PUT /tunnels: %v", err)
		return http.StatusInternalServerError, "Unknown Listening Error"
	}
	s.log.Printf("PUT /tunnels: %v", err)
	return http.StatusInternalServerError, "The tunnels cannot be kept"
}

// connect is the control path: it makes a session of the connection.
func (s *Server) connect(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Connection", "close")
	if r.Method != http.MethodConnect {
		http.Error(w, "405 must CONNECT\n", http.StatusMethodNotAllowed)
		return
	}
	c, err := s.identify(r)
	if err != nil {
		s.log.Printf("client from %s is refused: %v", r.RemoteAddr, err)
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "505 the control path needs HTTP/1.1", http.StatusHTTPVersionNotSupported)
		return
	}
	conn.SetDeadline(time.Now().Add(2 * handshakeTime))
	limitUnsent(plainConn(conn))
	f := c.features.and(ourFeatures)
	head := "HTTP/1.1 200 " + connected + "\n"
	if list := f.String(); list != "" {
		head += headerFeatures + ": " + list + "\n"
	}
	if _, err := io.WriteString(conn, head+"\n"); err != nil {
		conn.Close()
		return
	}
	early, _ := rw.Reader.Peek(rw.Reader.Buffered())
	mc := newMuxConn(conn, bytes.NewReader(bytes.Clone(early)))
	if !s.wg.Go(func() { s.session(mc, c, f) }) {
		conn.Close() // the server has ended
	}
}

// session serves an agent until its session ends.
func (s *Server) session(conn *muxConn, c claim, f features) {
	sess, err := acceptSession(conn, c, f)
	if err != nil {
		s.log.Printf("client %s from %s: %v", c.id, conn.RemoteAddr(), err)
		return
	}
	conn.SetDeadline(time.Time{})
	if !s.agents.add(sess) {
		s.log.Printf("client %s from %s is refused: %d identifiers are known", c.id, sess.remote, maxKnown)
		sess.mux.Close()
		return
	}
	s.log.Printf("client %s connected from %s", c.id, sess.remote)
	err = sess.run(s.ctx)
	s.agents.remove(sess)
	s.log.Printf("client %s from %s is gone after %v: %v", c.id, sess.remote, time.Since(sess.started).Round(time.Millisecond), err)
}
