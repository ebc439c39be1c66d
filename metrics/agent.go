package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"adit/session"
)

// AgentStats is what the agents of a process do, and have done so far.
type AgentStats struct {
	Connected int // agents
	Away      int

	Tunnels        int
	RefusedTunnels int // the server does not let them have their name

	Streams    int
	Opened     uint64
	Refused    uint64 // their upstream was not reached
	Received   uint64 // bytes from visitors, of streams that have ended
	Sent       uint64
	Reconnects uint64
	RoundTrip  time.Duration  // to the server; 0 while it is not known
	Carriers   map[string]int // agents that are connected, by their carrier

	Budget *session.Budget // of the sessions' buffers; may be nil
}

// An AgentSource is what the metrics of an agent are about.
type AgentSource interface{ AgentStats() AgentStats }

// NewAgent returns the metrics of the agents of a process.
func NewAgent(src AgentSource) prometheus.Collector {
	return &collector{&agentFamily, func(ch chan<- prometheus.Metric) { collectAgent(ch, src.AgentStats()) }}
}

var (
	agentFamily family

	agentSessions   = agentFamily.gauge("adit_agent_sessions", "Agents of the process, by whether they are connected: available or away.", "state")
	agentTunnels    = agentFamily.gauge("adit_agent_tunnels", "Tunnels, by whether the server lets them have their name: bound or refused.", "state")
	agentStreams    = agentFamily.gauge("adit_agent_streams", "Open streams.")
	agentOpened     = agentFamily.counter("adit_agent_streams_total", "Streams to upstreams so far.")
	agentRefused    = agentFamily.counter("adit_agent_streams_refused_total", "Streams whose upstream was not reached.")
	agentReceived   = agentFamily.counter("adit_agent_received_bytes_total", "Bytes from visitors, once their stream has ended.")
	agentSent       = agentFamily.counter("adit_agent_sent_bytes_total", "Bytes to visitors, once their stream has ended.")
	agentReconnects = agentFamily.counter("adit_agent_reconnects_total", "Times that an agent was connected again.")
	agentRoundTrip  = agentFamily.gauge("adit_agent_round_trip_seconds", "Round trip time to the server; 0 while it is not known.")
	agentCarriers   = agentFamily.gauge("adit_agent_carriers", "Agents of the process that are connected, by what carries their sessions.", "carrier")
	agentBuffer     = agentFamily.gauge("adit_agent_send_buffer_bytes", "Memory for what the server has not acknowledged.")
	agentLimit      = agentFamily.gauge("adit_agent_send_buffer_limit_bytes", "How much of that memory there may be.")
)

func collectAgent(ch chan<- prometheus.Metric, st AgentStats) {
	send(ch, agentSessions, st.Connected, "available")
	send(ch, agentSessions, st.Away, "away")
	send(ch, agentTunnels, st.Tunnels-st.RefusedTunnels, "bound")
	send(ch, agentTunnels, st.RefusedTunnels, "refused")
	send(ch, agentStreams, st.Streams)
	send(ch, agentOpened, st.Opened)
	send(ch, agentRefused, st.Refused)
	send(ch, agentReceived, st.Received)
	send(ch, agentSent, st.Sent)
	send(ch, agentReconnects, st.Reconnects)
	send(ch, agentRoundTrip, st.RoundTrip.Seconds())
	for carrier, n := range st.Carriers {
		send(ch, agentCarriers, n, carrier)
	}
	send(ch, agentBuffer, st.Budget.Used())
	send(ch, agentLimit, st.Budget.Limit())
}
