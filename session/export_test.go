package session

// What tests in package session_test need of the inside.
const (
	MaxData       = maxData
	AcceptBacklog = acceptBacklog
	RestAfter     = restAfter
)
