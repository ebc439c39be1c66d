//go:build !linux

package tcpws

import "adit/internal/readable"

// Splicing is for Linux.

const spliceFrom = 256 << 10

func (l *link) canSpliceOut() bool { return false }
func (l *link) canSpliceIn() bool  { return false }

func (l *link) spliceOut() (n int, ok bool, err error) { return 0, false, nil }
func (l *link) spliceIn(_ *readable.Waiter, left int64) (n int64, ok bool, err error) {
	return 0, false, nil
}
