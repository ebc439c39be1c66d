package websocktunnel

import (
	"io"
	"net"
	"time"

	"adit/dialect/websocktunnel/wsmux"
	"adit/tunnel"
)

// A plainStream is a stream to a side without the extension, such as an
// original. It has no half of it to close, since originals take the end of one
// direction for that of both, and no way to end with an error.
type plainStream struct{ st *wsmux.Stream }

var (
	_ net.Conn      = (*plainStream)(nil)
	_ io.ReaderFrom = (*plainStream)(nil)
	_ io.WriterTo   = (*plainStream)(nil)
)

func (s *plainStream) Read(p []byte) (int, error)          { return s.st.Read(p) }
func (s *plainStream) Write(p []byte) (int, error)         { return s.st.Write(p) }
func (s *plainStream) ReadFrom(r io.Reader) (int64, error) { return s.st.ReadFrom(r) }
func (s *plainStream) WriteTo(w io.Writer) (int64, error)  { return s.st.WriteTo(w) }
func (s *plainStream) Close() error                        { return s.st.Close() }
func (s *plainStream) LocalAddr() net.Addr                 { return s.st.LocalAddr() }
func (s *plainStream) RemoteAddr() net.Addr                { return s.st.RemoteAddr() }
func (s *plainStream) SetDeadline(t time.Time) error       { return s.st.SetDeadline(t) }
func (s *plainStream) SetReadDeadline(t time.Time) error   { return s.st.SetReadDeadline(t) }
func (s *plainStream) SetWriteDeadline(t time.Time) error  { return s.st.SetWriteDeadline(t) }

// Quiet reports whether the stream is open in both directions and there is
// nothing to read.
func (s *plainStream) Quiet() bool { return s.st.Quiet() }

// OneRequest says that the stream is not to be used for a second request: while
// it is open an original holds 4 MiB for it.
func (s *plainStream) OneRequest() {}

// An Incoming is a stream as an agent gets it, not yet answered.
type incoming struct{ *wsmux.Stream }

var (
	_ tunnel.Incoming   = incoming{}
	_ tunnel.HalfCloser = incoming{}
	_ tunnel.Resetter   = incoming{}
)

// Info returns nothing: the protocol does not tell agents what a stream is for.
func (incoming) Info() tunnel.StreamInfo { return tunnel.StreamInfo{} }

func (s incoming) Accept() error { return s.Accepted() }
