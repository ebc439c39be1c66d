// Package sdnotify tells the service manager that started the process how it
// is doing, as sd_notify(3) describes it: one datagram with lines NAME=VALUE.
//
//	n := sdnotify.New(os.Getenv)
//	n.Ready("listening on :8080")
//	go n.Watch(ctx)
//	...
//	n.Stopping()
package sdnotify

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// A Notifier sends to the service manager. Its methods are safe for concurrent
// use, do nothing if there is no service manager, and do not report errors:
// there is nobody else to tell.
type Notifier struct {
	addr     *net.UnixAddr // nil without a service manager
	watchdog time.Duration // between signs of life; 0 if none are asked for
}

// writeTimeout bounds how long a service manager that reads nothing can hold up
// the process.
const writeTimeout = time.Second

// New returns a Notifier for what the environment says: NOTIFY_SOCKET,
// WATCHDOG_USEC and WATCHDOG_PID.
func New(getenv func(string) string) *Notifier {
	n := &Notifier{}
	name := getenv("NOTIFY_SOCKET")
	if !strings.HasPrefix(name, "/") && !strings.HasPrefix(name, "@") {
		return n
	}
	n.addr = &net.UnixAddr{Name: name, Net: "unixgram"}
	if pid := getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return n
	}
	if us, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64); err == nil && us > 0 {
		n.watchdog = time.Duration(us) * time.Microsecond / 2
	}
	return n
}

// Ready says that the process does its work, and what that is.
func (n *Notifier) Ready(status string) { n.send("READY=1\n" + line(status)) }

// Stopping says that the process is about to end.
func (n *Notifier) Stopping() { n.send("STOPPING=1\n") }

// Watch sends signs of life, if they are asked for, until ctx ends.
func (n *Notifier) Watch(ctx context.Context) {
	if n.addr == nil || n.watchdog <= 0 {
		return
	}
	tick := time.NewTicker(n.watchdog)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			n.send("WATCHDOG=1\n")
		case <-ctx.Done():
			return
		}
	}
}

// line is the status as one line.
func line(status string) string {
	return fmt.Sprintf("STATUS=%s\n", strings.ReplaceAll(status, "\n", " "))
}

func (n *Notifier) send(state string) {
	if n.addr == nil {
		return
	}
	c, err := net.DialUnix("unixgram", nil, n.addr)
	if err != nil {
		return
	}
	defer c.Close()
	c.SetWriteDeadline(time.Now().Add(writeTimeout))
	c.Write([]byte(state))
}
