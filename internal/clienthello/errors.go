package clienthello

// Alerts of TLS (RFC 8446, section 6).
const (
	AlertUnexpectedMessage = 10
	AlertRecordOverflow    = 22
	AlertIllegalParameter  = 47
	AlertAccessDenied      = 49
	AlertDecodeError       = 50
	AlertInternalError     = 80
	AlertUnrecognizedName  = 112
)

// An Error is what is wrong with a ClientHello. All of them are package-level
// values.
type Error struct {
	Alert  byte // for the client; 0 if it does not speak TLS
	Reason string
}

func (e *Error) Error() string { return "ClientHello: " + e.Reason }

// What is wrong with a message.
var (
	ErrNotTLS      = &Error{0, "the first bytes are not those of TLS"}
	ErrUnexpected  = &Error{AlertUnexpectedMessage, "another message came first"}
	ErrEmptyRecord = &Error{AlertUnexpectedMessage, "a record is empty"}
	ErrRecordSize  = &Error{AlertRecordOverflow, "a record is longer than 16 KiB"}
	ErrTooLarge    = &Error{AlertRecordOverflow, "it is too long, or spread over too many records"}
	ErrSurplus     = &Error{AlertUnexpectedMessage, "another message follows in the same record"}
	ErrMalformed   = &Error{AlertDecodeError, "it is malformed"}
	ErrDuplicate   = &Error{AlertIllegalParameter, "an extension or a name is there twice"}
	ErrServerName  = &Error{AlertIllegalParameter, "the server name cannot be a hostname"}
	ErrBusy        = &Error{AlertInternalError, "too many long ones come at once"} // of Front
)

// AppendAlert appends the record of a fatal alert to b, as it is sent before
// there is encryption.
func AppendAlert(b []byte, alert byte) []byte {
	const typeAlert, fatal = 21, 2
	return append(b, typeAlert, 3, 3, 0, 2, fatal, alert)
}
