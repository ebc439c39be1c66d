package requests

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
)

// maxEvent is the longest line of an event that holds a frame.
const maxEvent = (frameData+frameOverhead+2)/3*4 + 64

// An eventReader reads frames that come as server-sent events, one in each.
type eventReader struct {
	r    *bufio.Reader
	rest []byte
	line []byte
}

func newEventReader(r io.Reader) *eventReader { return &eventReader{r: bufio.NewReader(r)} }

func (e *eventReader) Read(p []byte) (int, error) {
	for len(e.rest) == 0 {
		if err := e.event(); err != nil {
			return 0, err
		}
	}
	n := copy(p, e.rest)
	e.rest = e.rest[n:]
	return n, nil
}

// event reads a line, and what is in it.
func (e *eventReader) event() error {
	e.line = e.line[:0]
	for {
		part, err := e.r.ReadSlice('\n')
		if len(e.line)+len(part) > maxEvent {
			return fmt.Errorf("an event's line is over %d bytes", maxEvent)
		}
		e.line = append(e.line, part...)
		if err == nil {
			break
		}
		if err != bufio.ErrBufferFull {
			return err
		}
	}
	data, ok := bytes.CutPrefix(bytes.TrimRight(e.line, "\r\n"), []byte("data:"))
	if !ok {
		return nil // a comment, or the empty line between events
	}
	data = bytes.TrimPrefix(data, []byte(" "))
	n, err := base64.StdEncoding.Decode(data, data)
	if err != nil {
		return fmt.Errorf("an event is not in base64: %w", err)
	}
	e.rest = data[:n]
	return nil
}
