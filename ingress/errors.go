package ingress

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"adit/internal/http1"
	"adit/policy"
	"adit/tunnel"
)

// A problem is what a visitor is told when a request could not be relayed.
// Its code is stable and listed in docs/errors.md; nothing of it depends on
// what was asked or on what a far side said.
type problem struct {
	code   string
	status int
	retry  int    // seconds for Retry-After; 0 means none
	text   string // for people, one sentence

	challenge string // for WWW-Authenticate; empty means none
}

var (
	probBadRequest  = &problem{"bad-request", http.StatusBadRequest, 0, "The request is malformed.", ""}
	probMethod      = &problem{"method-not-allowed", http.StatusMethodNotAllowed, 0, "The method CONNECT is not offered here.", ""}
	probNoTLS       = &problem{"tls-required", http.StatusBadRequest, 0, "This takes TLS: use https:// or, for an agent, wss://.", ""}
	probReadTimeout = &problem{"request-timeout", http.StatusRequestTimeout, 0, "The head of the request did not arrive in time.", ""}
	probTarget      = &problem{"target-too-long", http.StatusRequestURITooLong, 0, "The address is too long.", ""}
	probMisdirected = &problem{"misdirected", http.StatusMisdirectedRequest, 0, "This connection is not for that name.", ""}
	probExpect      = &problem{"expectation-failed", http.StatusExpectationFailed, 0, "The only expectation supported is 100-continue.", ""}
	probHeadSize    = &problem{"head-too-large", http.StatusRequestHeaderFieldsTooLarge, 0, "The header fields are too large or too many.", ""}
	probVersion     = &problem{"http-version", http.StatusHTTPVersionNotSupported, 0, "The HTTP version is not supported on this connection.", ""}

	probUnknownName  = &problem{"unknown-name", http.StatusNotFound, 0, "There is nothing under this name.", ""}
	probNotFound     = &problem{"not-found", http.StatusNotFound, 0, "There is nothing at this address.", ""}
	probForbidden    = &problem{"forbidden", http.StatusForbidden, 0, "The agent does not allow this.", ""}
	probBlocked      = &problem{"name-blocked", http.StatusForbidden, 0, "The operator of this server has blocked this name.", ""}
	probOffline      = &problem{"agent-offline", http.StatusServiceUnavailable, 5, "The agent behind this name is not connected.", ""}
	probQueueFull    = &problem{"queue-full", http.StatusServiceUnavailable, 5, "Too many visitors are waiting for this name already.", ""}
	probBusy         = &problem{"busy", http.StatusServiceUnavailable, 2, "The agent behind this name is busy.", ""}
	probDraining     = &problem{"draining", http.StatusServiceUnavailable, 2, "The agent behind this name is going away.", ""}
	probVisitors     = &problem{"too-many-visitors", http.StatusServiceUnavailable, 2, "The server has as many visitors as it takes.", ""}
	probShuttingDown = &problem{"shutting-down", http.StatusServiceUnavailable, 2, "The server is shutting down.", ""}

	probRefused     = &problem{"upstream-refused", http.StatusBadGateway, 0, "The agent could not connect to its service.", ""}
	probService     = &problem{"unknown-service", http.StatusBadGateway, 0, "The agent has no such service.", ""}
	probAgentFailed = &problem{"agent-failed", http.StatusBadGateway, 0, "The agent failed.", ""}
	probAgentLost   = &problem{"agent-lost", http.StatusBadGateway, 0, "The connection to the agent was lost.", ""}
	probClosed      = &problem{"upstream-closed", http.StatusBadGateway, 0, "The service closed the connection without an answer.", ""}
	probBadResponse = &problem{"upstream-bad-response", http.StatusBadGateway, 0, "The service answered with something other than valid HTTP.", ""}
	probUnsupported = &problem{"unsupported", http.StatusBadGateway, 0, "The agent's protocol cannot carry this request.", ""}
	probTimeout     = &problem{"upstream-timeout", http.StatusGatewayTimeout, 0, "The service did not answer in time.", ""}
	probInternal    = &problem{"internal", http.StatusInternalServerError, 0, "The server failed.", ""}

	probAddress       = &problem{"address-not-allowed", http.StatusForbidden, 0, "Your address is not one that may enter here.", ""}
	probCertificate   = &problem{"certificate-required", http.StatusForbidden, 0, "To enter here, show a certificate that is accepted here.", ""}
	probLogin         = &problem{"login-required", http.StatusUnauthorized, 0, "To enter here, give a user and a password.", ""}
	probViewer        = &problem{"viewer-token-required", http.StatusUnauthorized, 0, "To enter here, ask for a link.", ""}
	probViewerExpired = &problem{"viewer-token-expired", http.StatusUnauthorized, 0, "Your link has expired. Ask for a new one.", ""}
	probRate          = &problem{"rate-limited", http.StatusTooManyRequests, 1, "There are more requests than may come here.", ""}
	probBody          = &problem{"body-too-large", http.StatusRequestEntityTooLarge, 0, "The body of the request is longer than is taken here.", ""}

	// probVisitorLeft is never sent; it is what OnRequest sees.
	probVisitorLeft = &problem{"visitor-left", 499, 0, "The visitor left before the answer.", ""}
)

// problems are all of them, for metrics.
var problems = []*problem{
	probBadRequest, probMethod, probNoTLS, probReadTimeout, probTarget, probMisdirected, probExpect,
	probHeadSize, probVersion, probUnknownName, probNotFound, probForbidden, probBlocked, probOffline,
	probQueueFull, probBusy, probDraining, probVisitors, probShuttingDown, probRefused, probService,
	probAgentFailed, probAgentLost, probClosed, probBadResponse, probUnsupported, probTimeout,
	probInternal, probVisitorLeft,
	probAddress, probCertificate, probLogin, probViewer, probViewerExpired, probRate, probBody,
}

// streamProblems are those for which a visitor gets no stream.
var streamProblems = []*problem{
	probUnknownName, probForbidden, probBlocked, probOffline, probQueueFull, probBusy, probDraining, probShuttingDown,
	probRefused, probService, probAgentFailed, probAgentLost, probUnsupported, probTimeout, probInternal,
	probAddress, probCertificate, probRate, probMisdirected,
}

var (
	errHeadTimeout = errors.New("request head did not arrive in time")
	errVisitorLeft = errors.New("visitor left")
	errNotFound    = errors.New("no such path")
	errMisdirected = errors.New("host is not one for this conn")
	errNoTLS       = errors.New("conn without TLS")
	errDraining    = errors.New("server is shutting down")
)

// A badResponse is what is wrong with an upstream's response.
type badResponse struct{ err error }

func (e *badResponse) Error() string { return "bad response: " + e.err.Error() }

// A badBody is what is wrong with a visitor's request body.
type badBody struct{ err error }

func (e *badBody) Error() string { return "bad request body: " + e.err.Error() }
func (e *badBody) Unwrap() error { return e.err }

// An upstreamError says that the conn behind a stream failed.
type upstreamError struct {
	op  string
	err error
}

func (e *upstreamError) Error() string { return fmt.Sprintf("%s stream: %v", e.op, e.err) }
func (e *upstreamError) Unwrap() error { return e.err }

// explain turns an error into what a visitor sees. It is the only place that
// does.
func explain(err error) *problem {
	var (
		bad     *badResponse
		denied  *policy.Denied
		syntax  *http1.Error
		refused *tunnel.RefusedError
		reset   *tunnel.ResetError
		up      *upstreamError
	)
	switch {
	case errors.As(err, &bad):
		return probBadResponse
	case errors.As(err, &denied):
		return explainDenied(denied)
	case errors.As(err, &syntax):
		return explainSyntax(syntax)
	case errors.Is(err, errVisitorLeft):
		return probVisitorLeft
	case errors.Is(err, errHeadTimeout):
		return probReadTimeout
	case errors.Is(err, errNotFound):
		return probNotFound
	case errors.Is(err, errNoTLS):
		return probNoTLS
	case errors.Is(err, errMisdirected):
		return probMisdirected
	case errors.Is(err, errDraining):
		return probShuttingDown
	case errors.Is(err, ErrNoRoute):
		return probUnknownName
	case errors.Is(err, ErrBlocked):
		return probBlocked
	case errors.Is(err, ErrOffline):
		return probOffline
	case errors.Is(err, ErrQueueFull):
		return probQueueFull
	case errors.As(err, &refused):
		return explainRefusal(refused.Code)
	case errors.As(err, &reset):
		return explainReset(reset.Code)
	case errors.Is(err, tunnel.ErrClosed):
		return probAgentLost
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return probTimeout
	case errors.Is(err, errors.ErrUnsupported):
		return probUnsupported
	case errors.Is(err, context.Canceled):
		return probShuttingDown
	case errors.As(err, &up):
		return probClosed
	}
	return probInternal
}

func explainDenied(err *policy.Denied) *problem {
	base := probInternal
	switch err.Code {
	case policy.CodeAddress:
		base = probAddress
	case policy.CodeRate:
		base = probRate
	case policy.CodeCertificate:
		base = probCertificate
	case policy.CodeLogin:
		base = probLogin
	case policy.CodeViewer:
		base = probViewer
	case policy.CodeViewerExpired:
		base = probViewerExpired
	case policy.CodeBody:
		base = probBody
	}
	if err.RetryAfter == 0 && err.Challenge == "" {
		return base
	}
	p := *base
	p.challenge = err.Challenge
	if err.RetryAfter > 0 {
		p.retry = int((err.RetryAfter + time.Second - 1) / time.Second)
	}
	return &p
}

func explainSyntax(err *http1.Error) *problem {
	switch err.Status {
	case http.StatusMethodNotAllowed:
		return probMethod
	case http.StatusRequestURITooLong:
		return probTarget
	case http.StatusExpectationFailed:
		return probExpect
	case http.StatusRequestHeaderFieldsTooLarge:
		return probHeadSize
	case http.StatusHTTPVersionNotSupported:
		return probVersion
	}
	return probBadRequest
}

func explainRefusal(code tunnel.RefuseCode) *problem {
	switch code {
	case tunnel.RefuseUnknownService:
		return probService
	case tunnel.RefuseUpstreamRefused:
		return probRefused
	case tunnel.RefuseUpstreamTimeout:
		return probTimeout
	case tunnel.RefuseForbidden:
		return probForbidden
	case tunnel.RefuseBusy:
		return probBusy
	case tunnel.RefuseDraining:
		return probDraining
	}
	return probAgentFailed
}

func explainReset(code tunnel.ResetCode) *problem {
	switch code {
	case tunnel.ResetTimeout:
		return probTimeout
	case tunnel.ResetOverload:
		return probBusy
	case tunnel.ResetInternal:
		return probAgentFailed
	}
	return probClosed
}
