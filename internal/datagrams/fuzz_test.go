package datagrams_test

import (
	"bytes"
	"io"
	"testing"

	"adit/internal/datagrams"
)

func FuzzReader(f *testing.F) {
	f.Add([]byte("\x00\x03abc\x00\x00\x00\x01x"))
	f.Add([]byte("\x00"))
	f.Add([]byte("\xff\xffshort"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := datagrams.NewReader(bytes.NewReader(b))
		defer r.Release()
		var again bytes.Buffer
		for {
			d, err := r.Next()
			switch {
			case err == nil:
				datagrams.Write(&again, append(make([]byte, datagrams.HeadLen), d...))
				continue
			case err != io.EOF && err != io.ErrUnexpectedEOF:
				t.Fatalf("Next: %v, want an end", err)
			case err == io.EOF && again.Len() != len(b):
				t.Fatalf("a clean end after %d of %d bytes", again.Len(), len(b))
			}
			break
		}
		if !bytes.HasPrefix(b, again.Bytes()) {
			t.Fatalf("%x was written again as %x", b, again.Bytes())
		}
	})
}
