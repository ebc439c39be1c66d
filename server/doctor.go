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

// newDoctor returns what answers those who examine the way to the server.
func newDoctor(version string) (*doctor.Handler, error) {
	guard, err := policy.NewGuard("", policy.Policy{Rate: doctorRate, TotalRate: doctorTotal})
	if err != nil {
		return nil, err
	}
	if version == "" {
		version = "(unknown)"
	}
	return doctor.NewHandler(doctor.HandlerOptions{
		Version:  version,
		Admit:    func(from netip.Addr) error { return guard.AdmitConn(from) },
		Accept:   doctor.Accept,
		Carriers: []string{"websocket"},
	}), nil
}

// examined returns the handler of a request of adit doctor, or nil.
func (s *Server) examined(r *http.Request) http.Handler {
	if s.doctor == nil || r.URL.Path != doctor.Path && !strings.HasPrefix(r.URL.Path, doctor.Path+"/") {
		return nil
	}
	return s.doctor
}
