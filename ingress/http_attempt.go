package ingress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"adit/internal/http1"
	"adit/tunnel"
)

// errGivenUp is why a response is not taken: a reset follows it.
var errGivenUp = errors.New("the agent is away or silent")

// lateAnswer is how long an upstream that takes no more of a request may need
// to say why.
const lateAnswer = time.Second

// open returns a stream for the request: an idle one or a new one.
func (v *visitor) open(to Target) (*stream, error) {
	ex := v.ex
	t := to.Tunnel
	key := streamKey{t, ex.service}
	pool := v.h.streams.pool(key, true)
	if pool == nil {
		return nil, errDraining
	}
	info := tunnel.StreamInfo{Service: ex.service, Protocol: "http"}
	var owner netip.AddrPort
	if to.PerVisitor || ex.req.Upgrade != nil {
		// Other streams serve one visitor after another, this one will not.
		info.Visitor, info.Local, info.Host = v.visitorAddrPort(), addrPort(v.conn.LocalAddr()), v.name.key
		if to.PerVisitor {
			owner = info.Visitor
		}
	}
	if ex.req.Upgrade == nil {
		if s := pool.get(owner, v.h.now(), ex.bodyLeft != 0 || !idempotent(ex.req.Method)); s != nil {
			return s, nil
		}
	}
	v.h.counters.streams.opened.Add(1)
	// With all of the request at hand, a refusal can come late. Otherwise the
	// body stays with the visitor until there is an upstream.
	// And so it does if there are others to go to and the request may not be
	// sent twice.
	if eo, ok := t.(tunnel.EarlyOpener); ok && ex.bodyLeft == 0 && (to.Alive == nil || idempotent(ex.req.Method)) {
		conn, err := eo.OpenEarly(info)
		if err != nil {
			return nil, fmt.Errorf("open stream: %w", err)
		}
		return &stream{conn: conn, pool: pool, owner: owner}, nil
	}
	ctx, cancel := to.whileAlive(v.ctx, v.h.opts.OpenTimeout)
	defer cancel()
	conn, err := t.OpenStream(ctx, info)
	if err != nil {
		return nil, fmt.Errorf("open stream: %w", err)
	}
	return &stream{conn: conn, pool: pool, owner: owner}, nil
}

// attempt sends the request on s and relays the response. An error means that
// nothing of a response came and nothing was sent to the visitor: perhaps
// because the target was given up, if the request may be sent again.
func (v *visitor) attempt(s *stream, to Target) (end, error) {
	ex := v.ex
	if !v.use(s) {
		s.reset(tunnel.ResetCancelled, "the visitor left")
		return 0, errVisitorLeft
	}
	wait := func() bool { return true }
	if to.Alive != nil && idempotent(ex.req.Method) {
		wait = context.AfterFunc(to.Alive, func() { s.reset(tunnel.ResetCancelled, "another agent is asked instead") })
	}
	_, werr := s.conn.Write(ex.out)
	switch {
	case werr != nil:
		s.conn.SetReadDeadline(time.Now().Add(lateAnswer))
	case v.h.opts.ResponseTimeout > 0:
		s.conn.SetReadDeadline(time.Now().Add(v.h.opts.ResponseTimeout))
	}
	if werr == nil && ex.bodyLeft != 0 {
		v.startUpload(s)
	}
	head, have, err := v.readResponse(s)
	if !wait() && err == nil {
		err = &upstreamError{"read", errGivenUp} // the stream is reset, or about to be
	}
	if err != nil {
		if werr != nil {
			err = &upstreamError{"write", werr}
		}
		return v.attemptFailed(s, err)
	}
	if werr != nil || v.h.opts.ResponseTimeout > 0 {
		s.conn.SetReadDeadline(time.Time{})
	}
	if ex.resp.Status == 101 {
		return v.upgrade(s, ex.rin[head:have]), nil
	}
	return v.relayResponse(s, head, have, werr == nil), nil
}

// attemptFailed ends s after a response that did not come or was none.
func (v *visitor) attemptFailed(s *stream, err error) (end, error) {
	ex := v.ex
	s.reset(tunnel.ResetCancelled, "")
	if ex.upload != nil {
		v.endUpload(s)
		if bad, ok := ex.upload.err.(*badBody); ok {
			err = bad
		}
	}
	v.use(nil)
	if v.gone.Load() {
		err = errVisitorLeft
	}
	_, bad := err.(*badResponse)
	_, body := err.(*badBody)
	if bad || body || ex.replied {
		return v.fail(err), nil
	}
	return 0, err
}

// readResponse reads until the head of the final response is in ex.rin, and
// parses it. Interim responses before it are passed on.
func (v *visitor) readResponse(s *stream) (head, have int, err error) {
	ex := v.ex
	var scan http1.Scanner
	for {
		if have == 0 {
			v.await(s)
		}
		if have == len(ex.rin) {
			if have >= v.h.opts.MaxHeadBytes {
				return 0, 0, &badResponse{http1.ErrHeadTooLarge}
			}
			rin := make([]byte, 2*have)
			copy(rin, ex.rin)
			ex.rin = rin
		}
		n, err := s.conn.Read(ex.rin[have:])
		have += n
		if n == 0 && err != nil {
			if have > 0 && (err == io.EOF || err == io.ErrUnexpectedEOF) {
				return 0, 0, &badResponse{io.ErrUnexpectedEOF}
			}
			ex.replied = ex.replied || have > 0
			return 0, 0, &upstreamError{"read", err}
		}
		for {
			head, err = scan.Response(ex.rin[:have])
			if err != nil {
				return 0, 0, &badResponse{err}
			}
			if head == 0 {
				break
			}
			if err := ex.resp.Parse(ex.rin[:head], ex.req.Method, http1.Limits{}); err != nil {
				return 0, 0, &badResponse{err}
			}
			if ex.resp.Status == 101 && (ex.req.Upgrade == nil || !ex.resp.Upgrade) {
				return 0, 0, &badResponse{http1.ErrStatus}
			}
			if ex.resp.Status >= 200 || ex.resp.Status == 101 {
				return head, have, nil
			}
			if err := v.passInterim(); err != nil {
				return 0, 0, err
			}
			have = copy(ex.rin, ex.rin[head:have])
			scan = http1.Scanner{}
		}
	}
}

// passInterim sends a 1xx response on. HTTP/1.0 does not know them.
func (v *visitor) passInterim() error {
	ex := v.ex
	if ex.req.Minor == 0 {
		return nil
	}
	ex.replied = true
	out := v.appendResponseHead(nil)
	out = append(out, "\r\n"...)
	if _, err := v.conn.Write(out); err != nil {
		v.leave()
		return errVisitorLeft
	}
	return nil
}
