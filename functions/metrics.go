package functions

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are by function: their number is the owner's.
type metrics struct {
	s         *Service
	calls     *prometheus.CounterVec
	throttled *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
	programs  *prometheus.Desc
	queued    *prometheus.Desc
}

func newMetrics(s *Service) *metrics {
	return &metrics{
		s: s,
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "weir_function_invocations_total",
			Help: "Invocations by outcome: ok, failed (by the function), error (it could not be asked)."}, []string{"function", "outcome"}),
		throttled: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "weir_function_throttled_total",
			Help: "Invocations refused as all places of the function's concurrency were taken."}, []string{"function"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "weir_function_duration_seconds",
			Help: "Time of an invocation, the start of an environment included.", Buckets: []float64{0.0001, 0.001, 0.01, 0.1, 1, 10, 100}}, []string{"function"}),
		programs: prometheus.NewDesc("weir_function_environments", "Execution environments that are programs.", nil, nil),
		queued:   prometheus.NewDesc("weir_function_queued", "Events accepted and not done.", nil, nil),
	}
}

func (m *metrics) invoked(name string, d time.Duration, res result, err error) {
	outcome := "ok"
	if err != nil {
		outcome = "error"
	} else if res.failed {
		outcome = "failed"
	}
	m.calls.WithLabelValues(name, outcome).Inc()
	m.seconds.WithLabelValues(name).Observe(d.Seconds())
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	m.calls.Describe(ch)
	m.throttled.Describe(ch)
	m.seconds.Describe(ch)
	ch <- m.programs
	ch <- m.queued
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	m.calls.Collect(ch)
	m.throttled.Collect(ch)
	m.seconds.Collect(ch)
	ch <- prometheus.MustNewConstMetric(m.programs, prometheus.GaugeValue, float64(m.s.Environments()))
	ch <- prometheus.MustNewConstMetric(m.queued, prometheus.GaugeValue, float64(m.s.queue.len()))
}
