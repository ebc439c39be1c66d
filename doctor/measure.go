package doctor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"
)

const (
	pings      = 10
	pingsFor   = 1500 * time.Millisecond // at most
	pingTime   = 5 * time.Second         // for one
	pieceSize  = maxOrder
	inFlight   = 64 // pieces
	bulkBytes  = maxTaken - 1<<20
	bulkSettle = 5 * time.Second // for what is under way when the time is over
)

// A line is a carrier under examination.
type line struct {
	conn  net.Conn
	piece []byte
}

func newLine(conn net.Conn) *line {
	l := &line{conn: conn, piece: make([]byte, pieceSize)}
	rand.Read(l.piece) // nobody compresses that
	return l
}

// ping returns how long one byte takes there and back.
func (l *line) ping(limit time.Duration) (time.Duration, error) {
	l.conn.SetDeadline(time.Now().Add(limit))
	began := time.Now()
	if _, err := l.conn.Write(append(appendOrder(nil, orderEcho, 1), '!')); err != nil {
		return 0, err
	}
	var b [1]byte
	if _, err := io.ReadFull(l.conn, b[:]); err != nil {
		return 0, err
	}
	if b[0] != '!' {
		return 0, fmt.Errorf("%q came back, and '!' was sent", b[0])
	}
	return time.Since(began), nil
}

// roundTrip returns the median of several pings, of which the first, which may
// have waited for something, does not count.
func (l *line) roundTrip() (time.Duration, error) {
	var all []time.Duration
	for end := time.Now().Add(pingsFor); len(all) <= pings && (len(all) < 2 || time.Now().Before(end)); {
		d, err := l.ping(pingTime)
		if err != nil {
			return 0, err
		}
		all = append(all, d)
	}
	all = all[1:]
	slices.Sort(all)
	return all[len(all)/2], nil
}

// up returns how many bytes in a second get to the server, as long as it is
// given, and how many did.
func (l *line) up(d time.Duration) (rate float64, sent int, err error) {
	order := append(appendOrder(nil, orderTake, pieceSize), l.piece...)
	return l.bulk(d, bulkBytes, order, 1, pieceSize)
}

// down is up for the other direction, for at most so many bytes.
func (l *line) down(d time.Duration, most int) (rate float64, err error) {
	rate, _, err = l.bulk(d, most, appendOrder(nil, orderGive, pieceSize), pieceSize, pieceSize)
	return rate, err
}

// bulk sends an order again and again for that time, with several under way,
// and reads an answer of that many bytes to each. Each order moves size bytes.
func (l *line) bulk(d time.Duration, most int, order []byte, answer, size int) (rate float64, moved int, err error) {
	began := time.Now()
	l.conn.SetDeadline(began.Add(d + bulkSettle))
	slots := make(chan struct{}, inFlight)
	sent := make(chan struct{}, inFlight) // orders whose answers are to come; closed after the last
	stop := make(chan struct{})
	failed := make(chan error, 1)
	go func() {
		defer close(sent)
		for n := 0; n+size <= most && time.Since(began) < d; n += size {
			select {
			case slots <- struct{}{}:
			case <-stop:
				return
			}
			if _, err := l.conn.Write(order); err != nil {
				failed <- err
				return
			}
			sent <- struct{}{}
		}
	}()
	buf := make([]byte, answer)
	for range sent {
		if err != nil {
			continue // the writer ends by itself
		}
		if _, err = io.ReadFull(l.conn, buf); err != nil {
			close(stop)
			l.conn.SetDeadline(time.Unix(1, 0))
			continue
		}
		moved += size
		<-slots
	}
	select {
	case werr := <-failed:
		if err == nil {
			err = werr
		}
	default:
	}
	if moved == 0 && err == nil {
		err = errors.New("nothing got through")
	}
	if err != nil && moved < inFlight*size/2 {
		return 0, moved, err
	}
	return float64(moved) / time.Since(began).Seconds(), moved, nil
}

// A span is for how long a conn was held, and what became of it.
type span struct {
	dur time.Duration
	cut error // nil if it survived
}

// hold holds a conn open for d, asks the server for a sign of life each time
// that every has passed, and closes it. It ends early with ctx.
func (l *line) hold(ctx context.Context, d, every time.Duration) span {
	began := time.Now()
	came := make(chan struct{})
	ended := make(chan error, 1)
	over := make(chan struct{})
	l.conn.SetDeadline(time.Time{})
	go func() { // it sees at once when the conn is closed
		for {
			var b [1]byte
			if _, err := io.ReadFull(l.conn, b[:]); err != nil {
				ended <- err
				return
			}
			select {
			case came <- struct{}{}:
			case <-over:
			}
		}
	}()
	defer func() {
		close(over)
		l.conn.Close()
		if len(ended) == 0 {
			<-ended
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for time.Since(began) < d {
		timer.Reset(min(every, d-time.Since(began)))
		select {
		case <-timer.C:
		case err := <-ended:
			ended <- err
			return span{time.Since(began), err}
		case <-ctx.Done():
			return span{dur: time.Since(began)}
		}
		at := time.Since(began)
		l.conn.SetWriteDeadline(time.Now().Add(pingTime))
		if _, err := l.conn.Write(append(appendOrder(nil, orderEcho, 1), '!')); err != nil {
			return span{at, err}
		}
		timer.Reset(pingTime)
		select {
		case <-came:
		case err := <-ended:
			ended <- err
			return span{at, err}
		case <-timer.C:
			return span{at, errSilence}
		case <-ctx.Done():
			return span{dur: at}
		}
	}
	return span{dur: time.Since(began)}
}

var errSilence = errors.New("no answer any more")
