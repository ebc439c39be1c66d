package session

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"
)

const (
	defaultWindow = 256 << 10
	maxCredit     = 1 << 62

	acceptBacklog = 8192
	maxCalls      = 16

	ackEvery = 256 << 10             // bytes taken in before an ACK is sent by itself
	ackDelay = 25 * time.Millisecond // and the longest wait for a batch to carry it

	handshakeTimeout = 10 * time.Second
	closeGrace       = time.Second // how long Close waits for what is queued
	lastWords        = time.Second // how long a carrier is read that cannot be written
)

// Options configures a session. The zero value is ready to use. It must not be
// changed once a session has it; many sessions may share one.
type Options struct {
	// ResumeWindow is how long a session without carrier is kept; the other
	// side may ask for less. 0 means 60 s, negative means that a session
	// ends with its carrier.
	ResumeWindow time.Duration

	// Ping is how long the other side may be silent before it is asked for a
	// sign of life; 0 means 9 s for the side that dialled and 10.5 s for the
	// other, negative means never.
	Ping time.Duration

	// Dead is how long the other side may be silent, or leave what it was
	// sent unacknowledged, before the carrier is given up. 0 means 14 s.
	Dead time.Duration

	// Window is the first credit of each stream that the other side sends
	// on, in bytes. 0 means 256 KiB.
	Window int

	// WindowBudget bounds by how much the windows of all streams together
	// may grow beyond Window, in bytes. 0 means 16 MiB, negative none.
	WindowBudget int

	// SendBuffer bounds the memory for what the other side has not
	// acknowledged, in bytes. 0 means 16 MiB.
	SendBuffer int

	// ReceiveBuffer bounds the memory for what nobody has read yet, in
	// bytes. 0 means 64 MiB.
	ReceiveBuffer int

	// MaxStreams is how many streams the other side may have open at once.
	// 0 means 8192, negative none.
	MaxStreams int

	// Budget, if not nil, is shared by sessions to bound their buffers
	// together.
	Budget *Budget

	// Handle answers a call of the other side. It is called in a goroutine
	// of its own for each call, 16 at once at the most; ctx ends with the
	// session. status 0 is success. result is cut to 16382 bytes. If nil,
	// calls get status 2. It must not close the session, which waits for it.
	Handle func(ctx context.Context, s *Session, method uint16, body []byte) (status uint16, result []byte)

	// Software names this program to the other side.
	Software string

	// Logger receives the session's events. If nil, nothing is logged.
	Logger *slog.Logger
}

// withDefaults returns a copy of o without zero values.
func (o *Options) withDefaults() *Options {
	c := Options{}
	if o != nil {
		c = *o
	}
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
		*v = max(*v, 0)
	}
	if c.ResumeWindow == 0 {
		c.ResumeWindow = time.Minute
	}
	c.ResumeWindow = max(c.ResumeWindow, 0)
	if c.Dead == 0 {
		c.Dead = 14 * time.Second
	}
	def(&c.Window, defaultWindow)
	def(&c.WindowBudget, 16<<20)
	def(&c.SendBuffer, 16<<20)
	def(&c.ReceiveBuffer, 64<<20)
	def(&c.MaxStreams, 8192)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &c
}

func (o *Options) ping(dialler bool) time.Duration {
	switch {
	case o.Ping != 0:
		return o.Ping
	case dialler:
		return 9 * time.Second
	default: // usually hears the dialler's ping first
		return 10500 * time.Millisecond
	}
}

// A Budget bounds the memory of several sessions together: send buffers, and
// windows beyond their first size. Its methods are safe for concurrent use.
type Budget struct {
	limit int64
	used  atomic.Int64
}

// budgetFloor is what each session may hold in its send buffer even when the
// budget is used up, so that each can make progress: a session over the floor
// waits for its own acknowledgements and never for another session.
const budgetFloor = 256 << 10

// NewBudget returns a budget of limit bytes.
func NewBudget(limit int64) *Budget { return &Budget{limit: limit} }

// Limit returns the limit in bytes, and 0 for no budget.
func (b *Budget) Limit() int64 {
	if b == nil {
		return 0
	}
	return b.limit
}

// Used returns the bytes in use now.
func (b *Budget) Used() int64 {
	if b == nil {
		return 0
	}
	return b.used.Load()
}

func (b *Budget) add(n int) {
	if b != nil {
		b.used.Add(int64(n))
	}
}

func (b *Budget) exhausted() bool { return b != nil && b.used.Load() >= b.limit }

// reserve takes n bytes if they are left.
func (b *Budget) reserve(n int) bool {
	if b == nil {
		return true
	}
	if b.used.Add(int64(n)) <= b.limit {
		return true
	}
	b.used.Add(int64(-n))
	return false
}
