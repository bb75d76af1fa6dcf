package jet

import "time"

// pace knows what a plain publish and a batch cost under Disk, to choose the
// cheaper one. Each plain publish is synced by itself; a batch is synced once
// but has a fixed cost of its own. On a fast disk a batch pays from about
// thirteen messages, on a slow one from two or three.
type pace struct {
	plain float64 // ns a message
	batch float64 // ns a batch, without its messages' share
}

const perMessage = 10_000 // ns of a message in a batch

// newPace begins with what was measured on an SSD, batches staged in memory or on
// the disk.
func newPace(staged bool) pace {
	p := pace{plain: 170e3, batch: 2.2e6}
	if staged {
		p.batch = 6e5
	}
	return p
}

func (p *pace) batchPays(messages int) bool {
	return messages > 1 && float64(messages)*p.plain > p.batch
}

func (p *pace) plainTook(messages int, d time.Duration) {
	p.plain += 0.1 * (float64(d)/float64(messages) - p.plain)
}

func (p *pace) batchTook(messages int, d time.Duration) {
	p.batch += 0.1 * (max(float64(d)-float64(messages)*perMessage, 3e5) - p.batch)
	// One stalled plain publish must not keep plain publishes off for ever.
	p.plain += 0.01 * (p.batch/13 - p.plain)
}
