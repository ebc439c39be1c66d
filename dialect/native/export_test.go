package native

import (
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
