package adittest

import (
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"adit/internal/memnet"
)

// memoryDomain is the domain of servers in memory (RFC 2606, section 2).
const memoryDomain = "adit.test"

// A memoryDoor is the way into a server in memory.
type memoryDoor struct {
	ln     *memnet.Listener
	srv    *http.Server
	served chan struct{} // closed when srv.Serve has returned
}

// openDoor lets visitors and programs in to h.
func openDoor(h http.Handler) *memoryDoor {
	d := &memoryDoor{
		ln:     memnet.Listen(memoryDomain),
		srv:    &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second},
		served: make(chan struct{}),
	}
	go func() {
		defer close(d.served)
		d.srv.Serve(&addressing{Listener: d.ln})
	}()
	return d
}

// close cuts off whoever is in the door.
func (d *memoryDoor) close() {
	d.srv.Close()
	<-d.served
}

// An addressing listener gives an IP address to those who come from memory.
type addressing struct {
	*memnet.Listener
	ports atomic.Uint32
}

func (l *addressing) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	port := 1024 + int(l.ports.Add(1)%60_000)
	return &addressed{c.(*memnet.Conn), &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: port}}, nil
}

type addressed struct {
	*memnet.Conn
	remote net.Addr
}

func (c *addressed) RemoteAddr() net.Addr { return c.remote }
