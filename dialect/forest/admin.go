package forest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"path"
	"strconv"
	"time"

	"adit/internal/usersocket"
)

// adminTime bounds a call on the admin socket, and that to the server.
const adminTime = 10 * time.Second

// listenAdmin makes the socket, in the place of one that an agent left behind.
// What is no socket is not removed, other than by the original.
func listenAdmin(name string) (net.Listener, error) {
	info, err := os.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("AdminUnixSocket: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("AdminUnixSocket: %s is there and is no socket", name)
	default:
		if err := os.Remove(name); err != nil {
			return nil, fmt.Errorf("AdminUnixSocket: %w", err)
		}
	}
	ln, err := usersocket.Listen(name)
	if err != nil {
		return nil, fmt.Errorf("AdminUnixSocket: %w", err)
	}
	return ln, nil
}

func (a *Agent) serveAdmin(ctx context.Context, ln net.Listener) error {
	srv := &http.Server{
		Handler:        http.HandlerFunc(a.admin),
		ReadTimeout:    adminTime,
		WriteTimeout:   2 * adminTime,
		MaxHeaderBytes: 16 << 10,
		ErrorLog:       a.log,
	}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(ln); ctx.Err() == nil {
		return err
	}
	return nil
}

// A liveConfig is what PUT /liveconfig takes.
type liveConfig struct {
	Listeners             json.RawMessage
	ServiceToLocalAddrMap map[string]string
}

func (a *Agent) admin(w http.ResponseWriter, r *http.Request) {
	switch {
	case path.Clean("/"+r.URL.Path) != "/liveconfig":
		http.Error(w, "404 not found, try PUT /liveconfig", http.StatusNotFound)
		return
	case r.Method != http.MethodPut:
		w.Header().Set("Allow", "PUT")
		http.Error(w, "405 method not allowed, try PUT", http.StatusMethodNotAllowed)
		return
	}
	var live liveConfig
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxSet))
	if err == nil {
		err = json.Unmarshal(b, &live)
	}
	if err == nil && live.Listeners != nil {
		_, _, _, err = parseSet(live.Listeners, form{})
	}
	if err != nil {
		http.Error(w, "400 bad request: can't parse JSON", http.StatusBadRequest)
		return
	}
	if live.Listeners == nil {
		live.Listeners = json.RawMessage("null")
	}
	status, answer, err := a.putTunnels(r.Context(), live.Listeners)
	switch {
	case err != nil:
		a.log.Printf("PUT /liveconfig: %v", err)
		http.Error(w, "502 tunnels request failed", http.StatusBadGateway)
		return
	case status != http.StatusOK:
		a.log.Printf("PUT /liveconfig: the server answered %d: %s", status, bytes.TrimSpace(answer))
		http.Error(w, fmt.Sprintf("502 tunnels request returned HTTP %d", status), http.StatusBadGateway)
		return
	}
	a.mu.Lock()
	a.services = maps.Clone(live.ServiceToLocalAddrMap)
	a.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	w.Write(answer)
}

// putTunnels sends a set to the server, always with TLS.
func (a *Agent) putTunnels(ctx context.Context, set []byte) (status int, answer []byte, err error) {
	if a.tls == nil {
		return 0, nil, errors.New("UseTls is false, and the server's management interface is used with TLS alone")
	}
	tr := &http.Transport{TLSClientConfig: a.tls.Clone(), DisableKeepAlives: true, DialContext: a.dialServer}
	defer tr.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, adminTime)
	defer cancel()
	host := a.config.ServerAddr
	if a.config.twoPort() {
		host = net.JoinHostPort(a.config.ServerHost, strconv.Itoa(a.config.ServerManagementPort))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "https://"+host+"/tunnels", bytes.NewReader(set))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, maxSet))
	return resp.StatusCode, answer, err
}
