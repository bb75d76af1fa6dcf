package mqtt

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	connections prometheus.Gauge
	connects    *prometheus.CounterVec // result
	closed      *prometheus.CounterVec // reason
	publishes   [2]prometheus.Counter  // by QoS
	pubacks     prometheus.Counter
	failures    *prometheus.CounterVec // kind; appends the log refused
	deliveries  [2]prometheus.Counter
	drops       *prometheus.CounterVec // reason
	denials     *prometheus.CounterVec // action
	violations  *prometheus.CounterVec // limit
	fallbacks   prometheus.Counter
	gaps        prometheus.Counter
	guarded     *prometheus.CounterVec // reason

	sessions        *prometheus.CounterVec // result
	storedSessions  prometheus.Gauge
	sessionFailures prometheus.Counter
	redeliveries    prometheus.Counter
	takeovers       prometheus.Counter
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	var all []prometheus.Collector
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: "weir", Subsystem: "mqtt", Name: name, Help: help})
		all = append(all, c)
		return c
	}
	vec := func(name, help, label string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "weir", Subsystem: "mqtt", Name: name, Help: help}, []string{label})
		all = append(all, c)
		return c
	}
	byQoS := func(name, help string) [2]prometheus.Counter {
		v := vec(name, help, "qos")
		return [2]prometheus.Counter{v.WithLabelValues("0"), v.WithLabelValues("1")}
	}
	m := &metrics{
		connections: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "weir", Subsystem: "mqtt", Name: "connections", Help: "Clients connected now."}),
		connects:    vec("connects_total", "CONNECT packets by result.", "result"),
		closed:      vec("closed_total", "Ended connections by reason.", "reason"),
		publishes:   byQoS("publishes_total", "Messages taken from clients and handed to the log, by QoS."),
		pubacks:     counter("pubacks_total", "Publishes acknowledged after their commit."),
		failures:    vec("append_failures_total", "Publishes the log did not store, by kind of error.", "kind"),
		deliveries:  byQoS("deliveries_total", "Messages written to subscribers, by QoS."),
		drops:       vec("drops_total", "Deliveries left out, by reason.", "reason"),
		denials:     vec("denials_total", "Actions the authorizer or a reserved topic denied.", "action"),
		violations:  vec("violations_total", "Packets over a limit or against the protocol.", "limit"),
		fallbacks:   counter("fallbacks_total", "Times a slow session left the live path to follow the log by itself."),
		gaps:        counter("gaps_total", "Times trimming overtook a session or live delivery."),
		guarded:     vec("guarded_total", "Connections cut before they logged in, by reason.", "reason"),

		sessions:        vec("sessions_total", "Persistent sessions by what became of them: new, resumed, expired, other_principal, unreadable.", "result"),
		storedSessions:  prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "weir", Subsystem: "mqtt", Name: "sessions", Help: "Persistent sessions there are, of connected and of absent clients."}),
		sessionFailures: counter("session_save_failures_total", "Commits of session records that failed; what changed is saved later."),
		takeovers:       counter("takeovers_total", "Clients that another gateway let go of because they connected here."),
		redeliveries:    counter("redeliveries_total", "Messages sent again to a client that came back, marked as duplicates."),
	}
	all = append(all, m.connections, m.storedSessions)
	if r == nil {
		return m, nil
	}
	for _, c := range all {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
