package auth

// A Code says why a claim was turned down. It is one of docs/errors.md and
// stays as it is.
type Code string

const (
	MissingCredential Code = "missing-credential" // none was sent
	InvalidCredential Code = "invalid-credential" // it is not known, or not well formed
	ExpiredCredential Code = "expired-credential" // it was valid once
	RevokedCredential Code = "revoked-credential" // it was valid once, and was withdrawn
	NotYetValid       Code = "not-yet-valid"      // it will be valid, by this clock
	Forbidden         Code = "forbidden"          // it is valid, and does not allow this
	Busy              Code = "busy"               // nobody looked at it; try again soon
	BadRequest        Code = "bad-request"        // what came with it is malformed
)

// An Error is why a claim was turned down. It never contains the credential,
// and may be shown to whoever made the claim.
type Error struct {
	Code   Code
	Reason string // for people
}

func (e *Error) Error() string { return "auth: " + string(e.Code) + ": " + e.Reason }
