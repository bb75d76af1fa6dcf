package shadow

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	requests *prometheus.CounterVec // by operation and code
	repeats  prometheus.Counter
	dropped  prometheus.Counter
	gaps     prometheus.Counter
	resent   prometheus.Counter
	diverged prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "weir_shadow_" + name, Help: help})
	}
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "weir_shadow_requests_total", Help: "Shadow requests answered, by operation and code; 200: accepted."}, []string{"operation", "code"}),
		repeats:  counter("repeats_total", "Requests seen again after a restart; they change nothing."),
		dropped:  counter("answers_dropped_total", "Answers the log did not take because of a limit."),
		gaps:     counter("lost_events_total", "Events trimmed before they were read."),
		resent:   counter("deltas_resent_total", "Deltas sent again because no report had answered them."),
		diverged: counter("diverged_total", "Shadows whose desired and reported state stayed apart for too long."),
	}
	if r != nil {
		r.MustRegister(m.requests, m.repeats, m.dropped, m.gaps, m.resent, m.diverged)
	}
	return m
}

func (m *metrics) answered(op operation, e *Error) {
	code := 200
	if e != nil {
		code = e.Code
	}
	m.requests.WithLabelValues(op.String(), strconv.Itoa(code)).Inc()
}
