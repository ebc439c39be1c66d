package requests

import (
	"context"
	"crypto/ecdh"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// An Opening is a request for a conn that has not been answered yet.
type Opening struct {
	kind Kind
	key  *ecdh.PrivateKey
}

// NewOpening returns an Opening of that kind.
func NewOpening(kind Kind) (*Opening, error) {
	key, err := newKey()
	return &Opening{kind, key}, err
}

// Body is what the request has as its body; its Header field is the kind.
func (o *Opening) Body() []byte { return o.key.PublicKey().Bytes() }

// AnswerSize is how many bytes the body of the answer has, whose status is 200.
const AnswerSize = answerSize

// ConnOptions is what a conn needs to know of the way to its server.
type ConnOptions struct {
	// URL is where requests go; the server's ServeHTTP answers there.
	URL string

	// Host is what is asked for, if not the host in URL.
	Host string

	// Header is sent with each request.
	Header http.Header

	// RoundTrip makes a request. It must not hold back the body of the answer.
	RoundTrip func(*http.Request) (*http.Response, error)

	// Close, if not nil, is called when the conn has ended and no request is
	// under way.
	Close func()

	// Local and Remote are the addresses of the conn.
	Local, Remote net.Addr
}

// ErrHeldBack says that something on the way keeps answers until they are
// complete.
var ErrHeldBack = errors.New("something on the way holds the server's answer back")

// Conn returns the conn that the answer's body stands for, when it has proved
// to work. ctx bounds only that. The caller closes the conn.
func (o *Opening) Conn(ctx context.Context, answer []byte, opts ConnOptions) (*Conn, error) {
	if len(answer) != answerSize || string(answer[:len(answerMagic)]) != answerMagic {
		return nil, errors.New("the answer is not that of an adit server")
	}
	answer = answer[len(answerMagic):]
	var i id
	answer = answer[copy(i[:], answer):]
	theirs, err := ecdh.X25519().NewPublicKey(answer[:keySize])
	if err != nil {
		return nil, errors.New("the answer has no key")
	}
	k, err := agree(o.key, theirs, i, o.Body(), theirs.Bytes())
	if err != nil {
		return nil, errors.New("the answer has a key that cannot be used")
	}
	if _, err := open(append([]byte(nil), answer[keySize:]...), k.down, 0); err != nil {
		return nil, err
	}
	c := &Conn{id: i, keys: k, kind: o.kind, opts: opts, wait: firstWait}
	c.init(opts.Local, opts.Remote)
	c.stir = c.sendLocked
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if o.kind == Poll {
		c.mu.Lock()
		for range minPolls {
			c.startPollLocked()
		}
		c.mu.Unlock()
		return c, nil
	}
	if err := c.startStream(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// firstFrame is how long the first bytes of a stream may take beyond one round
// trip.
const firstFrame = 3 * time.Second

// startStream begins to stream, and returns when the first frame has come. If it
// fails the conn has been closed.
func (c *Conn) startStream(ctx context.Context) error {
	for _, c.text = range []bool{false, true} {
		ctx, cancel := context.WithTimeout(ctx, firstFrame)
		s, err := c.openStream(ctx)
		cancel()
		if err == nil {
			c.wg.Go(func() { c.runStream(s) })
			return nil
		}
		if c.text || !errors.Is(err, context.DeadlineExceeded) {
			c.Close()
			if errors.Is(err, context.DeadlineExceeded) {
				err = fmt.Errorf("%w (%w)", ErrHeldBack, err)
			}
			return err
		}
	}
	panic("unreachable")
}
