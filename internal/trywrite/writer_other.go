//go:build !unix

package trywrite

import (
	"errors"
	"net"

	"adit/internal/pipe"
)

// A Writer writes to one socket without waiting. On this system there is no
// way to do it.
type Writer struct{}

// Init reports false.
func (w *Writer) Init(net.Conn) bool { return false }

// Write fails.
func (w *Writer) Write([]byte) (int, error) { return 0, errors.ErrUnsupported }

// WriteAll fails.
func (w *Writer) WriteAll([]byte) (int, error) { return 0, errors.ErrUnsupported }

// CanSplice reports false.
func (w *Writer) CanSplice() bool { return false }

// Splice fails.
func (w *Writer) Splice(*pipe.Pipe, int) (int, error) { return 0, errors.ErrUnsupported }

// SpliceAll fails.
func (w *Writer) SpliceAll(*pipe.Pipe, int) (int, error) { return 0, errors.ErrUnsupported }
