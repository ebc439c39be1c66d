package wayout

import (
	"fmt"
	"net/http"
	"strings"
)

// A Kind is what stands in the way. Its text stays the same from one version to
// the next.
type Kind string

const (
	// Setting: the proxy's URL cannot be used.
	Setting Kind = "proxy-setting"

	// Unreachable: there is no connection to the proxy.
	Unreachable Kind = "proxy-unreachable"

	// NoProxy: what answers there does not speak the protocol of the URL.
	NoProxy Kind = "proxy-not-spoken"

	// LoginNeeded: it wants a login, and there is none that it would take.
	LoginNeeded Kind = "proxy-login-needed"

	// LoginRefused: it does not accept the login that it was shown.
	LoginRefused Kind = "proxy-login-refused"

	// Forbidden: it does not let this server, or its port, be reached.
	Forbidden Kind = "proxy-forbidden"

	// ServerUnreachable: the proxy has no connection to the server.
	ServerUnreachable Kind = "proxy-server-unreachable"

	// Untrusted: the certificate, of the proxy or else the server, is signed by
	// an authority that is not known here: of a device on the way, perhaps.
	Untrusted Kind = "tls-untrusted"
)

// An Error says what stands in the way to the server. None of its fields holds
// a user or a password.
type Error struct {
	Kind       Kind
	Proxy      string   // its scheme, host and port; empty if none is to blame
	Server     string   // host and port
	StatusCode int      // of an HTTP proxy's answer; 0 if there was none
	Offers     []string // LoginNeeded, LoginRefused: the ways to log in that it knows
	Issuer     string   // Untrusted: who signed the certificate
	Err        error    // what is known beyond; may be nil
}

func (e *Error) Error() string {
	text := e.text()
	if e.Proxy == "" {
		return text
	}
	return "proxy " + e.Proxy + ": " + text
}

func (e *Error) text() string {
	switch e.Kind {
	case LoginNeeded, LoginRefused:
		text := "it does not accept the login"
		if e.Kind == LoginNeeded {
			text = "it wants a login"
		}
		if len(e.Offers) > 0 {
			text += " (it takes " + strings.Join(e.Offers, ", ") + ")"
		}
		if e.Err != nil {
			text += ": " + e.Err.Error()
		}
		return text
	case Forbidden:
		return e.because("it does not let " + e.Server + " be reached")
	case ServerUnreachable:
		return e.because("it cannot reach " + e.Server)
	case Untrusted:
		return fmt.Sprintf("the certificate is signed by an unknown authority, %q: a device on the way may have put it in place of the right one", e.Issuer)
	}
	if e.Err == nil {
		return e.because(string(e.Kind))
	}
	return e.because(e.Err.Error())
}

// because adds the answer to text.
func (e *Error) because(text string) string {
	if e.StatusCode != 0 {
		return strings.TrimSpace(fmt.Sprintf("%s: the answer is %d %s", text, e.StatusCode, http.StatusText(e.StatusCode)))
	}
	if e.Err != nil && e.Err.Error() != text {
		return text + ": " + e.Err.Error()
	}
	return text
}

// Unwrap returns e.Err.
func (e *Error) Unwrap() error { return e.Err }
