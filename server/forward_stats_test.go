package server_test

import (
	"testing"

	"adit/server"
	"adit/tunnel"
)

func TestForwardStats(t *testing.T) {
	t.Parallel()
	at := echoAt(t, "tcp", "127.0.0.1:0")
	f := startForwarding(t, "127.0.0.1:*")
	s, err := f.dialSession(t, f.secret.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := reach(t, s.OpenTarget, tunnel.Target{Network: tunnel.TCP, Host: "127.0.0.1", Port: portOf(at)}); err != nil {
			t.Fatal(err)
		}
	}
	target := tunnel.Target{Network: tunnel.TCP, Host: "127.0.0.2", Port: portOf(at)}
	refusedWith(t, target, reach(t, s.OpenTarget, target), tunnel.RefuseForbidden)

	f.settled(t, func(st server.ForwardStats) bool { return st.Open == 0 }) // the last one's end is the relay's
	st := f.Stats().Forwards
	if st.Open != 0 || st.Connected["tcp"] != 3 || st.Refused["forbidden"] != 1 || st.Sent != 18 || st.Received != 18 {
		t.Errorf("got %+v, want none open, 3 connected, 1 forbidden, and 18 bytes each way", st)
	}
	if st.Max == 0 || st.Connected["udp"] != 0 || st.Refused["busy"] != 0 {
		t.Errorf("got %+v, want a limit, and neither udp nor busy", st)
	}
}
