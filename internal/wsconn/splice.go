package wsconn

import "adit/internal/pipe"

// Spliceable returns how many bytes of payload, of the message that is being
// read, Splice could move: all that the Conn does not hold yet, if it is a
// TCP socket and nothing has to be unmasked, and otherwise none.
func (c *Conn) Spliceable() int {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	return c.spliceableLocked()
}

func (c *Conn) spliceableLocked() int {
	if c.raw == nil || c.rerr != nil || c.key != 0 || c.nahead > 0 || len(c.buffered) > 0 || c.in != nil || !c.raw.canSplice() {
		return 0
	}
	return int(min(c.rem, 1<<30))
}

// Splice moves up to n bytes of payload from the socket to p without copying
// them, and without waiting: if none have come it returns 0 and no error. n must
// not be larger than what Spliceable returns. Its errors are those of Read.
func (c *Conn) Splice(p *pipe.Pipe, n int) (int, error) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	if n = min(n, c.spliceableLocked()); n <= 0 {
		return 0, c.rerr
	}
	n, err := c.raw.splice(p, n)
	if err != nil {
		return 0, c.readFailed(err)
	}
	c.rem -= int64(n)
	return n, nil
}
