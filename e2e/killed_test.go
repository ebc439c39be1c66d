package e2e

import "testing"

func TestGETsAreAllAnsweredWhileAgentIsKilledAndStartedAgain(t *testing.T) {
	t.Parallel()
	need(t, "go")
	addr := upstream(t, numbered)
	s := startServer(t)
	a := s.agent(t, "http", addr, "--id", "web")
	s.waitTunnel(t, "web")
	l := startLoad(t, s, false)
	for range 3 {
		l.expect(t, 300)
		a.kill()
		a = s.agent(t, "http", addr, "--id", "web")
		l.expect(t, 300)
	}
	t.Logf("the longest time without an answer was %s", l.gap)
}

func TestGETsAreAllAnsweredWhileServerIsKilledAndStartedAgain(t *testing.T) {
	t.Parallel()
	need(t, "go")
	s := startServer(t)
	s.agent(t, "http", upstream(t, numbered), "--id", "web")
	s.waitTunnel(t, "web")
	l := startLoad(t, s, true)
	for range 3 {
		l.expect(t, 300)
		s.kill()
		s.start(t)
		l.expect(t, 300)
	}
	t.Logf("the longest time without an answer was %s", l.gap)
}
