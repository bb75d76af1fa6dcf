package eventlog

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	commits, appended, appendedBytes, failed, trimmed, fetches, fills, refusedSubjects prometheus.Counter

	reg prometheus.Registerer
	all []prometheus.Collector
}

func newMetrics(l *Log) *metrics {
	m := &metrics{reg: l.o.Registerer}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: "weir", Subsystem: "log", Name: name, Help: help})
		m.all = append(m.all, c)
		return c
	}
	gauge := func(name, help string, f func() float64) {
		m.all = append(m.all, prometheus.NewGaugeFunc(
			prometheus.GaugeOpts{Namespace: "weir", Subsystem: "log", Name: name, Help: help}, f))
	}
	m.commits = counter("commits_total", "Groups of events committed together.")
	m.appended = counter("appended_total", "Events committed.")
	m.appendedBytes = counter("appended_bytes_total", "Payload bytes committed.")
	m.failed = counter("append_failures_total", "Events whose append failed.")
	m.trimmed = counter("trimmed_total", "Sequences trimmed away.")
	m.fetches = counter("stream_reads_total", "Reads from the stream by followers that were behind the ring.")
	m.fills = counter("fills_total", "Reads from the stream of what other processes committed and no copy came of.")
	m.refusedSubjects = counter("subjects_refused_total", "Events refused because of the limit of distinct topics.")
	gauge("subjects", "Distinct live topics, at most.", func() float64 {
		n := int64(0)
		for _, p := range l.parts {
			n += p.subjects.live.Load()
		}
		return float64(n)
	})
	gauge("queued", "Events waiting for their commit.", func() float64 {
		n := 0
		for _, p := range l.parts {
			n += p.appender.Waiting()
		}
		return float64(n)
	})
	if m.reg != nil {
		m.reg.MustRegister(m.all...)
	}
	return m
}

func (m *metrics) unregister() {
	if m == nil || m.reg == nil {
		return
	}
	for _, c := range m.all {
		m.reg.Unregister(c)
	}
}
