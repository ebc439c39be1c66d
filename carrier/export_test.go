package carrier

// For tests that play the other end.
var (
	AcceptFor         = acceptFor
	CongestionControl = congestionControl
)
