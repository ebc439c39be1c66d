package native

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"adit/auth"
)

// MaxConnections is how many sessions at a time an agent may have under one
// instance.
const MaxConnections = 16

// headerConnection says which of several sessions of one agent this is, as
// "<run>.<number>"; the run tells the processes of one instance apart.
const headerConnection = "Adit-Connection"

const maxRun = 32 // bytes

// formatConnection returns the value of headerConnection.
func formatConnection(run string, n int) string { return run + "." + strconv.Itoa(n) }

// parseConnection reads headerConnection, if there is one. The error is an
// *auth.Error.
func parseConnection(h http.Header) (run string, n int, err error) {
	text := h.Get(headerConnection)
	if text == "" {
		return "", 0, nil
	}
	run, number, _ := strings.Cut(text, ".")
	got, err := strconv.ParseUint(number, 10, 8)
	if err != nil || number[0] == '0' || got > MaxConnections || !validRun(run) {
		return "", 0, &auth.Error{Code: auth.BadRequest, Reason: fmt.Sprintf("%s: want up to %d letters or digits, a dot, and a number from 1 to %d", headerConnection, maxRun, MaxConnections)}
	}
	return run, int(got), nil
}

func validRun(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			return false
		}
	}
	return s != "" && len(s) <= maxRun
}
