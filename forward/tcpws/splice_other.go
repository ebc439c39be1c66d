//go:build !linux

package tcpws

// Splicing is for Linux.

const spliceFrom = 256 << 10

type fill struct{}

func (l *link) canSpliceOut() bool { return false }
func (l *link) canSpliceIn() bool  { return false }

func (l *link) spliceOut(*fill) (n int, ok bool, err error)         { return 0, false, nil }
func (l *link) spliceIn(*fill, int64) (n int64, ok bool, err error) { return 0, false, nil }
