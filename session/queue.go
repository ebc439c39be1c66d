package session

// A streamQueue is a queue of streams, linked through the streams themselves so
// that it takes no memory. Each kind of queue has a link of its own: a stream
// may be in one queue of each kind, once.
type streamQueue struct {
	kind        queueKind
	first, last *Stream
}

type queueKind uint8

const (
	bulkQueue queueKind = iota
	spaceQueue
	queueKinds
)

// A queueLink is a stream's place in a queue.
type queueLink struct {
	next   *Stream
	queued bool
}

func (q *streamQueue) empty() bool   { return q.first == nil }
func (q *streamQueue) peek() *Stream { return q.first }

// push appends st, unless it is queued already.
func (q *streamQueue) push(st *Stream) {
	l := &st.links[q.kind]
	if l.queued {
		return
	}
	l.queued = true
	if q.last == nil {
		q.first = st
	} else {
		q.last.links[q.kind].next = st
	}
	q.last = st
}

// pop takes the first stream, or returns nil.
func (q *streamQueue) pop() *Stream {
	st := q.first
	if st != nil {
		q.remove(nil, st)
	}
	return st
}

// drop takes st out, wherever it is.
func (q *streamQueue) drop(st *Stream) {
	if !st.links[q.kind].queued {
		return
	}
	var before *Stream
	for at := q.first; at != st; at = at.links[q.kind].next {
		before = at
	}
	q.remove(before, st)
}

func (q *streamQueue) remove(before, st *Stream) {
	next := st.links[q.kind].next
	st.links[q.kind] = queueLink{}
	if before == nil {
		q.first = next
	} else {
		before.links[q.kind].next = next
	}
	if q.last == st {
		q.last = before
	}
}
