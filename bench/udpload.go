package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

const (
	udpHead    = 16 // of a datagram: id of the visitor and number, then the pattern
	udpTimeout = time.Second
)

// backendUDP sends back what comes, until the socket is closed.
func backendUDP(pc *net.UDPConn) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := pc.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			pc.WriteToUDPAddrPort(buf[:n], from) // what is lost the visitor sees
		}
	}
}

func probeUDP(t target, timeout time.Duration) error {
	end := time.Now().Add(timeout)
	tl := udpEcho(t, 1, udpHead, 1, 0, timeout)
	if tl.ok > 0 && time.Now().Before(end) {
		return nil
	}
	return &kindErr{"no-datagram", fmt.Sprint(tl.samples)}
}

// udpEcho has conc visitors keep window datagrams of size bytes each on their
// way to the backend and back for dur, at least one. Lost ones are counted as
// failures.
func udpEcho(t target, conc, size, window int, dur, timeout time.Duration) tally {
	end := time.Now().Add(dur)
	return workers(conc, func(i int, tl *tally) {
		c, err := net.Dial("udp", t.addr)
		if err != nil {
			tl.fail(err)
			return
		}
		defer c.Close()
		v := udpVisitor{c: c, id: nextID(), size: size, sent: make([]time.Time, window), out: make([]byte, size), in: make([]byte, 1<<16)}
		v.run(end, timeout, tl)
	})
}

// A udpVisitor is one socket that waits for an answer to each datagram.
type udpVisitor struct {
	c       net.Conn
	id      uint64
	size    int
	sent    []time.Time // by number modulo the window; zero if nothing is on its way there
	out, in []byte
}

func (v *udpVisitor) run(end time.Time, timeout time.Duration, tl *tally) {
	next := uint64(0)
	for range v.sent {
		if err := v.send(next); err != nil {
			tl.fail(err)
			return
		}
		next++
	}
	for {
		v.c.SetReadDeadline(time.Now().Add(timeout))
		n, err := v.c.Read(v.in)
		now := time.Now()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			for i := range v.sent { // all of them are lost
				tl.fail(&kindErr{"lost", "no answer in time"})
				v.sent[i] = time.Time{}
			}
			if now.After(end) {
				return
			}
			for range v.sent {
				if err := v.send(next); err != nil {
					tl.fail(err)
					return
				}
				next++
			}
			continue
		}
		if err != nil {
			tl.fail(err)
			return
		}
		number, ok := v.check(v.in[:n])
		at := &v.sent[number%uint64(len(v.sent))]
		switch {
		case !ok:
			tl.fail(&kindErr{"wrong-bytes", "datagram"})
			return
		case at.IsZero():
			continue // it was given up
		}
		tl.ok++
		tl.bytes += int64(n)
		tl.lat = append(tl.lat, int64(now.Sub(*at)))
		*at = time.Time{}
		if now.After(end) {
			return
		}
		if !v.sent[next%uint64(len(v.sent))].IsZero() {
			continue // an earlier one is late: its answer, or the deadline, goes on
		}
		if err := v.send(next); err != nil {
			tl.fail(err)
			return
		}
		next++
	}
}

func (v *udpVisitor) send(number uint64) error {
	binary.BigEndian.PutUint64(v.out, v.id)
	binary.BigEndian.PutUint64(v.out[8:], number)
	copy(v.out[udpHead:], patAt(seedOf(v.id), int64(number), v.size-udpHead))
	v.sent[number%uint64(len(v.sent))] = time.Now()
	_, err := v.c.Write(v.out)
	return err
}

// check returns the number of a datagram, and whether it is one of v's, whole.
func (v *udpVisitor) check(b []byte) (number uint64, ok bool) {
	if len(b) != v.size || binary.BigEndian.Uint64(b) != v.id {
		return 0, false
	}
	number = binary.BigEndian.Uint64(b[8:])
	p := verifier{seed: seedOf(v.id), off: int64(number)}
	return number, p.check(b[udpHead:])
}

// udpWindow is how many datagrams each visitor has on their way: the number
// behind the w of a variant, 1 without one.
func udpWindow(v string) int {
	n := 1
	for i := range v {
		if v[i] == 'w' {
			fmt.Sscanf(v[i+1:], "%d", &n)
		}
	}
	return n
}

func runUDP(in *instance, v string, size int, o *opts) *sample {
	s := newSample()
	udpEcho(in.target, conns(v), size, udpWindow(v), 200*time.Millisecond, udpTimeout) // warm
	measured(in, s, func() (tally, time.Duration) {
		return udpEcho(in.target, conns(v), size, udpWindow(v), o.dur, udpTimeout), o.dur
	})
	return s
}
