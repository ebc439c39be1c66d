package doctor

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"adit/carrier"
	"adit/carrier/requests"
)

// On a carrier the agent sends orders: a byte that says which, and a length of
// four bytes, big-endian.
const (
	orderEcho = 'e' // so many bytes follow, and come back
	orderTake = 't' // so many bytes follow; a dot comes back
	orderGive = 'g' // so many bytes come back; they have to have been sent before
)

const (
	maxOrder    = 64 << 10         // bytes of one order
	maxTaken    = 32 << 20         // bytes of all orders on one carrier
	echoLife    = 11 * time.Minute // of a carrier
	echoSilence = 6 * time.Minute  // between two orders
	orderTime   = 10 * time.Second // for the rest of one
)

var errOrder = errors.New("doctor: malformed order")

// connect makes a carrier of a request, and takes orders on it.
func (h *Handler) connect(w http.ResponseWriter, r *http.Request, from netip.Addr) {
	conn, err := h.accept(w, r)
	if err != nil { // answered
		h.leave(from)
		return
	}
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		conn.Close()
		h.leave(from)
		return
	}
	h.conns[conn] = struct{}{}
	h.wg.Add(1)
	h.mu.Unlock()
	go func() { // the handler returns, which frees what net/http holds
		defer h.wg.Done()
		defer h.leave(from)
		defer func() {
			h.mu.Lock()
			delete(h.conns, conn)
			h.mu.Unlock()
			conn.Close()
		}()
		serveOrders(conn, time.Now())
	}()
}

// accept makes a carrier of a request, or answers it and returns an error.
func (h *Handler) accept(w http.ResponseWriter, r *http.Request) (net.Conn, error) {
	if requests.OpensConn(r) {
		conn, _, err := h.requests.Open(w, r)
		return conn, err
	}
	conn, err := carrier.Accept(w, r, carrier.AcceptOptions{Subprotocol: Subprotocol, ZeroMask: true})
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// serveOrders takes orders until conn ends, or has had its share of time or bytes.
func serveOrders(conn net.Conn, began time.Time) error {
	var head [5]byte
	buf := make([]byte, maxOrder)
	taken, given := 0, 0
	for time.Since(began) < echoLife {
		conn.SetReadDeadline(time.Now().Add(echoSilence))
		if _, err := io.ReadFull(conn, head[:1]); err != nil {
			return err
		}
		conn.SetDeadline(time.Now().Add(orderTime))
		if _, err := io.ReadFull(conn, head[1:]); err != nil {
			return err
		}
		n := binary.BigEndian.Uint32(head[1:])
		if n > maxOrder {
			return errOrder
		}
		var answer []byte
		switch head[0] {
		case orderEcho, orderTake:
			if taken += int(n); taken > maxTaken {
				return errOrder
			}
			if _, err := io.ReadFull(conn, buf[:n]); err != nil {
				return err
			}
			answer = buf[:n]
			if head[0] == orderTake {
				answer = []byte{'.'}
			} else if given += int(n); given > taken {
				return errOrder
			}
		case orderGive:
			if given += int(n); given > taken {
				return errOrder
			}
			answer = buf[:n]
		default:
			return errOrder
		}
		if _, err := conn.Write(answer); err != nil {
			return err
		}
	}
	return nil
}

func appendOrder(b []byte, order byte, n int) []byte {
	return binary.BigEndian.AppendUint32(append(b, order), uint32(n))
}
