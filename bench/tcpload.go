package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

func probeTCP(t target, timeout time.Duration) error {
	c, err := net.DialTimeout("tcp", t.addr, timeout)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(timeout))
	msg := make([]byte, 17)
	putHex16(msg[1:], nextID())
	msg[0] = rawEcho
	if _, err := c.Write(msg); err != nil {
		return err
	}
	got := make([]byte, 16)
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if !bytes.Equal(got, msg[1:]) {
		return &kindErr{"wrong-bytes", "echo"}
	}
	return nil
}

// tcpBulk moves bytes one way for dur over conc connections and counts those
// that have verifiably arrived (upwards: acknowledged by the backend).
func tcpBulk(t target, conc int, dur time.Duration, up bool) tally {
	end := time.Now().Add(dur)
	return workers(conc, func(i int, tl *tally) {
		c, err := net.DialTimeout("tcp", t.addr, 5*time.Second)
		if err != nil {
			tl.fail(err)
			return
		}
		defer c.Close()
		id := nextID()
		if up {
			tcpUp(c, id, end, tl)
		} else {
			tcpDown(c, id, end, tl)
		}
		if tl.ok == 0 && tl.failed() == 0 {
			tl.fail(&kindErr{"no-bytes", "nothing arrived"})
		}
	})
}

func rawHello(mode byte, id uint64, extra ...uint64) []byte {
	b := []byte{mode}
	b = binary.BigEndian.AppendUint64(b, id)
	for _, x := range extra {
		b = binary.BigEndian.AppendUint64(b, x)
	}
	return b
}

func tcpDown(c net.Conn, id uint64, end time.Time, tl *tally) {
	c.SetDeadline(end.Add(100 * time.Millisecond))
	if _, err := c.Write(rawHello(rawSource, id, 0)); err != nil {
		tl.fail(err)
		return
	}
	v := verifier{seed: seedOf(id)}
	buf := make([]byte, 256<<10)
	for {
		n, err := c.Read(buf)
		now := time.Now()
		if n > 0 {
			if !v.check(buf[:n]) {
				tl.fail(&kindErr{"wrong-bytes", fmt.Sprintf("after byte %d", v.off)})
				return
			}
			if now.Before(end) {
				tl.bytes += int64(n)
				tl.ok++
			}
		}
		if !now.Before(end) {
			return
		}
		if err != nil {
			tl.fail(err)
			return
		}
	}
}

func tcpUp(c net.Conn, id uint64, end time.Time, tl *tally) {
	c.SetDeadline(end)
	if _, err := c.Write(rawHello(rawSink, id)); err != nil {
		tl.fail(err)
		return
	}
	stop := make(chan error, 1)
	go func() {
		const frame = 256 << 10
		buf := make([]byte, 4+frame)
		binary.BigEndian.PutUint32(buf, frame)
		var off int64
		seed := seedOf(id)
		for {
			for k := 0; k < frame; k += patChunk {
				copy(buf[4+k:], patAt(seed, off+int64(k), patChunk))
			}
			if _, err := c.Write(buf); err != nil {
				stop <- err
				return
			}
			off += frame
		}
	}()
	var ack [9]byte
	for {
		if _, err := io.ReadFull(c, ack[:]); err != nil {
			if time.Now().Before(end) {
				tl.fail(err)
			}
			break
		}
		if ack[8] != 0 {
			tl.fail(&kindErr{"wrong-bytes", fmt.Sprintf("upwards, before byte %d", binary.BigEndian.Uint64(ack[:]))})
			break
		}
		tl.bytes = int64(binary.BigEndian.Uint64(ack[:]))
		tl.ok++
	}
	c.Close()
	<-stop
}

// tcpRR plays ping-pong with single bytes over conc established connections.
func tcpRR(t target, conc int, dur time.Duration, timeout time.Duration) tally {
	conns := make([]net.Conn, conc)
	errs := make([]error, conc)
	var wg sync.WaitGroup
	for i := range conns {
		wg.Add(1)
		go func() {
			defer wg.Done()
			conns[i], errs[i] = openEcho(t, timeout)
		}()
	}
	wg.Wait()
	end := time.Now().Add(dur)
	return workers(conc, func(i int, tl *tally) {
		c := conns[i]
		if c == nil {
			tl.fail(errs[i])
			return
		}
		defer c.Close()
		c.SetDeadline(end.Add(timeout))
		tl.lat = make([]int64, 0, 8192)
		var b [1]byte
		x := byte(i)
		for {
			t0 := time.Now()
			if t0.After(end) {
				return
			}
			x++
			b[0] = x
			if _, err := c.Write(b[:]); err != nil {
				tl.fail(err)
				return
			}
			if _, err := c.Read(b[:]); err != nil {
				tl.fail(err)
				return
			}
			if b[0] != x {
				tl.fail(&kindErr{"wrong-bytes", "ping-pong"})
				return
			}
			tl.ok++
			tl.lat = append(tl.lat, int64(time.Since(t0)))
		}
	})
}

// openEcho opens an echo connection and passes one verified message over it.
func openEcho(t target, timeout time.Duration) (net.Conn, error) {
	c, err := net.DialTimeout("tcp", t.addr, timeout)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(timeout))
	if err := echoOnce(c, true); err != nil {
		c.Close()
		return nil, err
	}
	c.SetDeadline(time.Time{})
	return c, nil
}

func echoOnce(c net.Conn, first bool) error {
	msg := make([]byte, 17)
	msg[0] = rawEcho
	putHex16(msg[1:], nextID())
	out := msg
	if !first {
		out = msg[1:]
	}
	if _, err := c.Write(out); err != nil {
		return err
	}
	var got [16]byte
	if _, err := io.ReadFull(c, got[:]); err != nil {
		return err
	}
	if !bytes.Equal(got[:], msg[1:]) {
		return &kindErr{"wrong-bytes", "echo"}
	}
	return nil
}

// tcpConnects opens connections one after the other, each with one verified
// 16-byte exchange.
func tcpConnects(t target, conc int, dur time.Duration, timeout time.Duration) tally {
	end := time.Now().Add(dur)
	return workers(conc, func(i int, tl *tally) {
		for time.Now().Before(end) {
			t0 := time.Now()
			c, err := openEcho(t, timeout)
			if err != nil {
				tl.fail(err)
				time.Sleep(5 * time.Millisecond)
				continue
			}
			c.Close()
			tl.ok++
			tl.lat = append(tl.lat, int64(time.Since(t0)))
		}
	})
}
