package server

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"
)

// A secureListener ends the TLS of its conns.
type secureListener struct {
	*net.TCPListener
	config *tls.Config
}

func (l secureListener) Accept() (net.Conn, error) {
	c, err := l.TCPListener.Accept()
	if err != nil {
		return nil, err
	}
	return &secureConn{tls.Server(c, l.config)}, nil
}

// A secureConn tells who comes without TLS what is wrong, as package net/http
// does.
type secureConn struct{ *tls.Conn }

func (c *secureConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if re, ok := errors.AsType[tls.RecordHeaderError](err); ok && re.Conn != nil && likeHTTP(re.RecordHeader) {
		re.Conn.SetWriteDeadline(time.Now().Add(time.Second))
		io.WriteString(re.Conn, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
	}
	return n, err
}

// likeHTTP reports whether what should be the header of a TLS record is how a
// request begins.
func likeHTTP(header [5]byte) bool {
	switch string(header[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO", "DELET", "PATCH":
		return true
	}
	return false
}
