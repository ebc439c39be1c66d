package wstunnel

import (
	"errors"
	"sync/atomic"
)

// errBudget is that of a body for which there is no room.
var errBudget = errors.New("the bodies that this tunnel holds take more room than it may have")

// A budget bounds bytes that are held. It is safe for concurrent use.
type budget struct {
	limit int64
	used  atomic.Int64
}

// take reserves n bytes, or none.
func (b *budget) take(n int64) bool {
	if b.used.Add(n) > b.limit {
		b.used.Add(-n)
		return false
	}
	return true
}

func (b *budget) give(n int64) { b.used.Add(-n) }
