package metrics

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"adit/ingress"
	"adit/server"
	"adit/session"
)

// A ServerSource is what the metrics of a server are about.
type ServerSource interface{ Stats() server.Stats }

// NewServer returns the metrics of a server. budget is that of its sessions'
// buffers, and may be nil.
func NewServer(src ServerSource, budget *session.Budget) prometheus.Collector {
	return &collector{&serverFamily, func(ch chan<- prometheus.Metric) { collectServer(ch, src.Stats(), budget) }}
}

var (
	serverFamily family

	ready    = serverFamily.gauge("adit_ready", "Whether visitors may be sent here: 1 or 0.")
	draining = serverFamily.gauge("adit_draining", "Whether the server is about to stop: 1 or 0.")

	httpVisitors   = serverFamily.gauge("adit_http_visitors", "Connections of HTTP visitors, and of agents in their handshake.")
	httpLimit      = serverFamily.gauge("adit_http_visitors_limit", "How many connections of HTTP visitors there may be.")
	httpAccepted   = serverFamily.counter("adit_http_visitors_total", "Connections of HTTP visitors so far.")
	httpTurnedAway = serverFamily.counter("adit_http_visitors_turned_away_total", "Connections of HTTP visitors over the limit.")
	httpInFlight   = serverFamily.gauge("adit_http_requests_in_flight", "Requests that are being answered, and upgraded connections.")
	httpUpgraded   = serverFamily.gauge("adit_http_upgraded", "Connections that carry something else after a request, such as WebSocket.")
	httpRequests   = serverFamily.counter("adit_http_requests_total", "Requests that were answered or given up, by the class of their status.", "status")
	httpErrors     = serverFamily.counter("adit_http_errors_total", "Requests that the server itself answered or gave up, by the code of errors.md.", "code")
	httpRetries    = serverFamily.counter("adit_http_retries_total", "Times that a request was sent to an agent again.")
	httpReceived   = serverFamily.counter("adit_http_received_bytes_total", "Bytes of bodies of requests, and what came on upgraded connections, once they are over.")
	httpSent       = serverFamily.counter("adit_http_sent_bytes_total", "Bytes of bodies of responses, and what went out on upgraded connections, once they are over.")
	idleStreams    = serverFamily.gauge("adit_idle_streams", "Streams to agents that wait for the next request.")
	idleLimit      = serverFamily.gauge("adit_idle_streams_limit", "How many idle streams there may be for each service of each session.")
	httpDuration   = serverFamily.histogram("adit_http_request_duration_seconds", "Time from the end of a request's head to the end of its response.")

	tcpPorts        = serverFamily.gauge("adit_tcp_ports", "Public TCP ports that are open.")
	tcpPortsLimit   = serverFamily.gauge("adit_tcp_ports_limit", "How many public TCP ports there are to give out.")
	tcpVisitors     = serverFamily.gauge("adit_tcp_visitors", "Connections of TCP visitors.")
	tcpLimit        = serverFamily.gauge("adit_tcp_visitors_limit", "How many connections of TCP visitors there may be.")
	tcpLimitPerPort = serverFamily.gauge("adit_tcp_visitors_per_port_limit", "How many connections of TCP visitors there may be for each port.")
	tcpAccepted     = serverFamily.counter("adit_tcp_visitors_total", "Connections of TCP visitors so far.")
	tcpTurnedAway   = serverFamily.counter("adit_tcp_visitors_turned_away_total", "Connections of TCP visitors over one of the limits.")
	tcpErrors       = serverFamily.counter("adit_tcp_errors_total", "Connections of TCP visitors for which there was no stream, by the code of errors.md.", "code")
	tcpReceived     = serverFamily.counter("adit_tcp_received_bytes_total", "Bytes from TCP visitors, once they have left.")
	tcpSent         = serverFamily.counter("adit_tcp_sent_bytes_total", "Bytes to TCP visitors, once they have left.")

	udpPorts        = serverFamily.gauge("adit_udp_ports", "Public UDP ports that are open.")
	udpPortsLimit   = serverFamily.gauge("adit_udp_ports_limit", "How many public UDP ports there are to give out.")
	udpVisitors     = serverFamily.gauge("adit_udp_visitors", "UDP visitors: addresses and ports that have a stream, or wait for one.")
	udpLimit        = serverFamily.gauge("adit_udp_visitors_limit", "How many UDP visitors there may be.")
	udpLimitPerPort = serverFamily.gauge("adit_udp_visitors_per_port_limit", "How many UDP visitors there may be for each port.")
	udpAccepted     = serverFamily.counter("adit_udp_visitors_total", "UDP visitors so far.")
	udpTurnedAway   = serverFamily.counter("adit_udp_visitors_turned_away_total", "UDP visitors over the limit of all ports.")
	udpUntold       = serverFamily.counter("adit_udp_visitors_unlogged_total", "UDP visitors without an answer that were too many for the access log.")
	udpErrors       = serverFamily.counter("adit_udp_errors_total", "UDP visitors for whom there was no stream, by the code of errors.md.", "code")
	udpReceived     = serverFamily.counter("adit_udp_received_bytes_total", "Bytes of datagrams from UDP visitors, once they are forgotten.")
	udpSent         = serverFamily.counter("adit_udp_sent_bytes_total", "Bytes of datagrams to UDP visitors, once they are forgotten.")
	udpDatagrams    = serverFamily.counter("adit_udp_datagrams_total", "Datagrams of UDP visitors, by direction: received (dropped ones among them), sent.", "direction")
	udpDropped      = serverFamily.counter("adit_udp_datagrams_dropped_total", "Of these, datagrams that were dropped, by direction: received (no room), sent (the system did not take them).", "direction")

	tlsHandshakes      = serverFamily.gauge("adit_tls_handshakes", "Visitors with TLS whose handshake is not over.")
	tlsHandshakesLimit = serverFamily.gauge("adit_tls_handshakes_limit", "How many visitors with TLS may be in their handshake. For one more, the oldest has to go.")
	tlsAccepted        = serverFamily.counter("adit_tls_visitors_total", "Connections to the port for TLS so far.")
	tlsResults         = serverFamily.counter("adit_tls_handshakes_total", "What became of connections to the port for TLS, by result: ended (the server ended TLS), passed (an upstream is to), refused (no TLS, or malformed), unknown (the name), broken, turned-away (over a limit).", "result")
	tlsVisitors        = serverFamily.gauge("adit_tls_visitors", "Connections whose TLS an upstream ends.")
	tlsLimit           = serverFamily.gauge("adit_tls_visitors_limit", "How many connections there may be whose TLS an upstream ends.")
	tlsErrors          = serverFamily.counter("adit_tls_errors_total", "Connections whose TLS an upstream was to end, and for which there was no stream, by the code of errors.md.", "code")
	tlsReceived        = serverFamily.counter("adit_tls_received_bytes_total", "Bytes from visitors whose TLS an upstream ends, once they have left.")
	tlsSent            = serverFamily.counter("adit_tls_sent_bytes_total", "Bytes to visitors whose TLS an upstream ends, once they have left.")
	certificateEnd     = serverFamily.gauge("adit_certificate_expiry_timestamp_seconds", "When the first of the server's certificates expires; 0 if it has none from a file.")

	streams        = serverFamily.gauge("adit_streams", "Open streams to agents.")
	streamsOpened  = serverFamily.counter("adit_streams_opened_total", "Streams that were asked for.", "ingress")
	streamsRefused = serverFamily.counter("adit_streams_refused_total", "Streams that agents refused, by the code of errors.md.", "ingress", "reason")

	names               = serverFamily.gauge("adit_names", "IDs, hostnames and ports that somebody has, or that are kept for somebody who is away.")
	blocked             = serverFamily.gauge("adit_blocked_names", "Names that the operator has blocked.")
	waiting             = serverFamily.gauge("adit_visitors_waiting", "Visitors that wait for an agent.")
	waitingLimit        = serverFamily.gauge("adit_visitors_waiting_limit", "How many visitors may wait for agents.")
	waitingLimitPerName = serverFamily.gauge("adit_visitors_waiting_per_name_limit", "How many visitors may wait for the agent of one name.")
	waited              = serverFamily.counter("adit_visitors_waited_total", "Visitors that had to wait for an agent.")
	queueFull           = serverFamily.counter("adit_visitors_queue_full_total", "Visitors that could not wait because too many did.")

	routes       = serverFamily.gauge("adit_routes", "Routes that the operator has set.")
	routesLimit  = serverFamily.gauge("adit_routes_limit", "How many routes the operator may set.")
	memberHealth = serverFamily.gauge("adit_route_member_healthy", "Whether an agent of a route's member is connected, heard and, if it is checked, well: 1 or 0.", "route", "member", "priority", "weight")
	memberPicked = serverFamily.counter("adit_route_member_visitors_total", "Requests and connections that were led to a member of a route.", "route", "member")
	silent       = serverFamily.counter("adit_silent_agents_total", "Times that visitors were led to other agents because one was silent.")

	sessions        = serverFamily.gauge("adit_sessions", "Sessions of agents by dialect and state.", "dialect", "state")
	sessionsLimit   = serverFamily.gauge("adit_sessions_limit", "How many sessions there may be.")
	handshakes      = serverFamily.counter("adit_handshakes_total", "Handshakes of agents by dialect and result: ok, resumed, a code of errors.md, and others.", "dialect", "result")
	handshaking     = serverFamily.gauge("adit_handshakes_in_progress", "Agents that are being admitted.")
	handshakesLimit = serverFamily.gauge("adit_handshakes_limit", "How many agents may be admitted at a time.")
	tunnels         = serverFamily.gauge("adit_tunnels", "What agents have bound, by kind.", "kind")
	tunnelsLimit    = serverFamily.gauge("adit_tunnels_limit", "How many names each session may bind.")
	binds           = serverFamily.counter("adit_binds_total", "Names that agents asked for, by kind and result: ok, or a code of errors.md.", "kind", "result")

	forwards         = serverFamily.gauge("adit_forwards", "Streams that agents have opened to targets, with those that are being connected.")
	forwardsLimit    = serverFamily.gauge("adit_forwards_limit", "How many such streams there may be.")
	forwardsOpened   = serverFamily.counter("adit_forwards_total", "Streams that were connected to targets, by network: agent is a service of another agent.", "network")
	forwardsRefused  = serverFamily.counter("adit_forwards_refused_total", "Streams that were not connected to their target, by the code of errors.md: forbidden is by a rule.", "reason")
	forwardsSent     = serverFamily.counter("adit_forwards_sent_bytes_total", "Bytes to targets, once their stream has ended.")
	forwardsReceived = serverFamily.counter("adit_forwards_received_bytes_total", "Bytes from targets, once their stream has ended.")

	nativeStarted          = serverFamily.counter("adit_native_sessions_total", "Native sessions so far.")
	nativeCarriers         = serverFamily.gauge("adit_native_carriers", "Connections of native sessions.")
	nativeLost             = serverFamily.counter("adit_native_carriers_lost_total", "Connections that native sessions have lost.")
	nativeResumed          = serverFamily.counter("adit_native_resumed_total", "Times that a native session went on with another connection.")
	nativeStreams          = serverFamily.counter("adit_native_streams_total", "Streams of native sessions so far.")
	nativeSent             = serverFamily.counter("adit_native_sent_bytes_total", "Bytes that native sessions have sent to agents.")
	nativeReceived         = serverFamily.counter("adit_native_received_bytes_total", "Bytes that native sessions have received from agents.")
	sendBuffer             = serverFamily.gauge("adit_send_buffer_bytes", "Memory for what agents have not acknowledged, and for windows that have grown.")
	sendLimit              = serverFamily.gauge("adit_send_buffer_limit_bytes", "How much memory there may be for that.")
	receiveBuffer          = serverFamily.gauge("adit_receive_buffer_bytes", "Memory for what agents have sent and visitors have not taken yet.")
	sendLimitPerSession    = serverFamily.gauge("adit_session_send_buffer_limit_bytes", "How much one native session may buffer that its agent has not acknowledged.")
	receiveLimitPerSession = serverFamily.gauge("adit_session_receive_buffer_limit_bytes", "How much one native session may buffer that visitors have not taken yet.")

	reloads    = serverFamily.counter("adit_reloads_total", "Times that files were read again, by result: ok or failed.", "result")
	reloadedAt = serverFamily.gauge("adit_reload_timestamp_seconds", "When files were last read again successfully; 0 if never.")
)

func collectServer(ch chan<- prometheus.Metric, st server.Stats, budget *session.Budget) {
	sendBool(ch, ready, st.Ready)
	sendBool(ch, draining, st.Draining)
	collectHTTP(ch, &st.HTTP)
	collectTCP(ch, &st.TCP)
	collectUDP(ch, &st.UDP)
	collectTLS(ch, &st)
	collectAgents(ch, &st)

	send(ch, streams, st.Streams)
	for door, s := range map[string]ingress.StreamStats{"http": st.HTTP.Streams, "tcp": st.TCP.Streams, "udp": st.UDP.Streams, "tls": st.TLS.Streams} {
		send(ch, streamsOpened, s.Opened, door)
		for reason, n := range s.Refused {
			send(ch, streamsRefused, n, door, reason)
		}
	}
	collectForwards(ch, &st.Forwards)
	send(ch, names, st.Route.Names)
	send(ch, blocked, st.Route.Blocked)
	send(ch, waiting, st.Route.Waiting)
	send(ch, waitingLimit, st.Route.MaxWaiting)
	send(ch, waitingLimitPerName, st.Route.MaxWaitingPerName)
	send(ch, waited, st.Route.Waited)
	send(ch, queueFull, st.Route.Full)

	send(ch, routes, st.Route.Rules)
	send(ch, routesLimit, st.Route.MaxRules)
	send(ch, silent, st.Route.GivenUp)
	for _, m := range st.Route.Members {
		healthy := 0
		if m.Healthy {
			healthy = 1
		}
		send(ch, memberHealth, healthy, m.Rule, string(m.ID), strconv.Itoa(m.Priority), strconv.Itoa(m.Weight))
		send(ch, memberPicked, m.Picked, m.Rule, string(m.ID))
	}

	send(ch, nativeStarted, st.Native.Started)
	send(ch, nativeCarriers, st.Native.Carried)
	send(ch, nativeLost, st.Native.CarriersLost)
	send(ch, nativeResumed, st.Native.Resumed)
	send(ch, nativeStreams, st.Native.Opened)
	send(ch, nativeSent, st.Native.Sent)
	send(ch, nativeReceived, st.Native.Received)
	send(ch, sendBuffer, budget.Used())
	send(ch, sendLimit, budget.Limit())
	send(ch, receiveBuffer, st.Native.ReceiveBuffered)
	send(ch, sendLimitPerSession, st.Native.SendLimit)
	send(ch, receiveLimitPerSession, st.Native.ReceiveLimit)

	send(ch, reloads, st.Reloads, "ok")
	send(ch, reloads, st.FailedReloads, "failed")
	send(ch, reloadedAt, st.ReloadedAt)
}

func collectHTTP(ch chan<- prometheus.Metric, st *ingress.HTTPStats) {
	send(ch, httpVisitors, st.Visitors)
	send(ch, httpLimit, st.MaxVisitors)
	send(ch, httpAccepted, st.Accepted)
	send(ch, httpTurnedAway, st.TurnedAway)
	send(ch, httpInFlight, st.InFlight)
	send(ch, httpUpgraded, st.Upgraded)
	for i, class := range []string{1: "1xx", 2: "2xx", 3: "3xx", 4: "4xx", 5: "5xx"} {
		if class != "" {
			send(ch, httpRequests, st.Requests[i], class)
		}
	}
	for code, n := range st.Problems {
		send(ch, httpErrors, n, code)
	}
	send(ch, httpRetries, st.Retries)
	send(ch, httpReceived, st.Received)
	send(ch, httpSent, st.Sent)
	send(ch, idleStreams, st.IdleStreams)
	send(ch, idleLimit, st.MaxIdleStreams)
	buckets := make(map[float64]uint64, len(ingress.Buckets))
	for i, bound := range ingress.Buckets {
		buckets[bound] = st.Durations.Counts[i]
	}
	ch <- prometheus.MustNewConstHistogram(httpDuration.desc, st.Durations.Total, st.Durations.Sum, buckets)
}

func collectTCP(ch chan<- prometheus.Metric, st *ingress.TCPStats) {
	send(ch, tcpPorts, st.Ports)
	send(ch, tcpPortsLimit, st.MaxPorts)
	send(ch, tcpVisitors, st.Visitors)
	send(ch, tcpLimit, st.MaxVisitors)
	send(ch, tcpLimitPerPort, st.MaxVisitorsPerPort)
	send(ch, tcpAccepted, st.Accepted)
	send(ch, tcpTurnedAway, st.TurnedAway)
	for code, n := range st.Failed {
		send(ch, tcpErrors, n, code)
	}
	send(ch, tcpReceived, st.Received)
	send(ch, tcpSent, st.Sent)
}

func collectUDP(ch chan<- prometheus.Metric, st *ingress.UDPStats) {
	send(ch, udpPorts, st.Ports)
	send(ch, udpPortsLimit, st.MaxPorts)
	send(ch, udpVisitors, st.Visitors)
	send(ch, udpLimit, st.MaxVisitors)
	send(ch, udpLimitPerPort, st.MaxVisitorsPerPort)
	send(ch, udpAccepted, st.Accepted)
	send(ch, udpTurnedAway, st.TurnedAway)
	send(ch, udpUntold, st.Untold)
	for code, n := range st.Failed {
		send(ch, udpErrors, n, code)
	}
	send(ch, udpReceived, st.Received)
	send(ch, udpSent, st.Sent)
	send(ch, udpDatagrams, st.DatagramsReceived, "received")
	send(ch, udpDatagrams, st.DatagramsSent, "sent")
	send(ch, udpDropped, st.Dropped, "received")
	send(ch, udpDropped, st.Unsent, "sent")
}

func collectTLS(ch chan<- prometheus.Metric, all *server.Stats) {
	st := &all.TLS
	send(ch, tlsHandshakes, st.Handshakes)
	send(ch, tlsHandshakesLimit, st.MaxHandshakes)
	send(ch, tlsAccepted, st.Accepted)
	for result, n := range map[string]uint64{
		"ended": st.Ended, "passed": st.Passed, "refused": st.Refused, "unknown": st.Unknown,
		"broken": st.Broken, "turned-away": st.TurnedAway,
	} {
		send(ch, tlsResults, n, result)
	}
	send(ch, tlsVisitors, st.Visitors)
	send(ch, tlsLimit, st.MaxVisitors)
	for code, n := range st.Failed {
		send(ch, tlsErrors, n, code)
	}
	send(ch, tlsReceived, st.Received)
	send(ch, tlsSent, st.Sent)
	end := int64(0)
	if !all.CertificateEnd.IsZero() {
		end = all.CertificateEnd.Unix()
	}
	send(ch, certificateEnd, end)
}

func collectForwards(ch chan<- prometheus.Metric, st *server.ForwardStats) {
	send(ch, forwards, st.Open)
	send(ch, forwardsLimit, st.Max)
	for network, n := range st.Connected {
		send(ch, forwardsOpened, n, network)
	}
	for reason, n := range st.Refused {
		send(ch, forwardsRefused, n, reason)
	}
	send(ch, forwardsSent, st.Sent)
	send(ch, forwardsReceived, st.Received)
}

func collectAgents(ch chan<- prometheus.Metric, st *server.Stats) {
	for key, n := range st.Sessions {
		send(ch, sessions, n, key[0], key[1])
	}
	send(ch, sessionsLimit, st.MaxSessions)
	for key, n := range st.Handshakes {
		send(ch, handshakes, n, key[0], key[1])
	}
	send(ch, handshaking, st.Handshaking)
	send(ch, handshakesLimit, st.MaxHandshaking)
	for key, n := range st.Tunnels {
		send(ch, tunnels, n, key[0])
	}
	send(ch, tunnelsLimit, st.MaxTunnels)
	for key, n := range st.Binds {
		send(ch, binds, n, key[0], key[1])
	}
}
