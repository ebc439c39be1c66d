package forward

import (
	"context"
	"io"
	"net"

	"adit/tunnel"
)

// RelayStdio connects in and out, such as standard input and output, to a
// target, until the target ends the stream: io.EOF of in ends one direction
// alone. ctx ends it at once. A Read of in may go on after that, and takes what
// comes next from in.
func RelayStdio(ctx context.Context, open OpenFunc, t tunnel.Target, in io.Reader, out io.Writer) error {
	opening, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	stream, err := open(opening, t)
	if err != nil {
		return err
	}
	defer stream.Close()
	stop := context.AfterFunc(ctx, func() { tunnel.Abort(stream, tunnel.ResetCancelled, "") })
	defer stop()
	go func() { // whoever owns in ends it
		if _, err := io.Copy(onlyWriter{stream}, in); err != nil {
			tunnel.Abort(stream, tunnel.ResetCancelled, "") // what came is not the whole
			return
		}
		closeWrite(stream)
	}()
	_, err = io.Copy(out, onlyReader{stream})
	return err
}

func closeWrite(c net.Conn) {
	if hc, ok := c.(tunnel.HalfCloser); ok {
		hc.CloseWrite()
	}
}

// onlyWriter and onlyReader hide that a stream can take bytes from sockets by
// itself: files are none.
type (
	onlyWriter struct{ io.Writer }
	onlyReader struct{ io.Reader }
)
