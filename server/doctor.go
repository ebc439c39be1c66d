package server

import (
	"net/http"
	"net/netip"
	"strings"
	"time"

	"adit/doctor"
	"adit/policy"
)

// How often anybody may examine the way to the server, with a few dozen requests
// each time.
var (
	doctorRate  = policy.Rate{Count: 240, Per: time.Minute, Burst: 240}  // of one address
	doctorTotal = policy.Rate{Count: 2400, Per: time.Minute, Burst: 480} // of all
)

// newDoctor returns what answers those who examine the way to the server, which
// takes QUIC at that port, or not at all if that is 0.
func newDoctor(version string, quic int) *doctor.Handler {
	guard, err := policy.NewGuard("", policy.Policy{Rate: doctorRate, TotalRate: doctorTotal})
	if err != nil {
		panic(err) // the rates are constant
	}
	if version == "" {
		version = "(unknown)"
	}
	return doctor.NewHandler(doctor.HandlerOptions{
		Version: version,
		Admit:   func(from netip.Addr) error { return guard.AdmitConn(from) },
		QUIC:    quic,
	})
}

// examined returns the handler of a request of adit doctor, or nil.
func (s *Server) examined(r *http.Request) http.Handler {
	if s.doctor == nil || r.URL.Path != doctor.Path && !strings.HasPrefix(r.URL.Path, doctor.Path+"/") {
		return nil
	}
	return s.doctor
}
