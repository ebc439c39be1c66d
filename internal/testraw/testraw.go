// Package testraw speaks HTTP/1.1 as recorded: requests and answers are compared
// byte by byte.
//
//	request := testraw.Bytes(vector.Request)
//	answer := testraw.Ask(t, conn, bufio.NewReader(conn), request)
package testraw

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// patience bounds each exchange.
const patience = 20 * time.Second

// Ask sends a request as it is and returns the answer as it came. r reads conn.
// The answer's body is as long as its Content-Length says.
func Ask(t testing.TB, conn net.Conn, r *bufio.Reader, request string) string {
	t.Helper()
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	length := 0
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatalf("%q: after %q: %v", request, b.String(), err)
		}
		b.WriteString(line)
		fmt.Sscanf(line, "Content-Length: %d", &length)
		if line == "\r\n" {
			break
		}
	}
	if !strings.HasPrefix(request, "HEAD ") {
		body := make([]byte, length)
		if _, err := io.ReadFull(r, body); err != nil {
			t.Fatal(err)
		}
		b.Write(body)
	}
	return b.String()
}

// Bytes returns the bytes that a recorded text stands for, each of whose
// characters is one byte.
func Bytes(s string) string {
	b := make([]byte, 0, len(s))
	for _, r := range s {
		b = append(b, byte(r))
	}
	return string(b)
}

// Dateless returns an answer without its field Date.
func Dateless(answer string) string {
	var b strings.Builder
	for line := range strings.Lines(answer) {
		if !strings.HasPrefix(line, "Date: ") {
			b.WriteString(line)
		}
	}
	return b.String()
}
