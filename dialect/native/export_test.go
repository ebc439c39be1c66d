package native

import (
	"context"
	"log/slog"
	"time"

	"adit/internal/recall"
)

// NewImpatientChooser returns a Chooser for tests, which looks for better
// carriers after that time, and avoids bad ones for as long.
func NewImpatientChooser(after time.Duration) *Chooser {
	m, _ := recall.Open("", recall.Options{Avoid: after})
	return &Chooser{memory: m, log: slog.New(slog.DiscardHandler), after: after}
}

// Move gives a session that is not being served a carrier of that kind in place of
// the one that it has.
func (s *Session) Move(ctx context.Context, kind Carrier) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := s.dialer.dialKind(ctx, kind)
	if err != nil {
		return err
	}
	return s.resumeOn(ctx, conn, kind)
}
