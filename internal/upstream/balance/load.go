package balance

import (
	"math"
	"sync/atomic"
	"time"
)

// memory is how long an endpoint's latency is remembered: after so long
// without an answer half of it is forgotten, so that one which was slow is
// asked again.
const memory = 10 * time.Second

// Load is how busy and how quick an endpoint is. It is safe for concurrent
// use; the zero Load is one of an endpoint of which nothing is known.
type Load struct {
	active  atomic.Int64
	latency atomic.Int64 // in nanoseconds
	at      atomic.Int64 // when it was observed, in time since start
}

// start is where the monotonic clock of this package begins.
var start = time.Now()

// Begin says that a request goes to the endpoint, End that it is over.
func (l *Load) Begin() { l.active.Add(1) }

// BeginWithin is Begin, but reports false and does nothing when most requests
// are there already. 0 means that there is no limit.
func (l *Load) BeginWithin(most int64) bool {
	if n := l.active.Add(1); most > 0 && n > most {
		l.active.Add(-1)
		return false
	}
	return true
}

// End is said once for each Begin.
func (l *Load) End() { l.active.Add(-1) }

// Active returns the requests in flight.
func (l *Load) Active() int64 { return l.active.Load() }

// Observe takes note of how long the endpoint took to answer, or to fail. What
// is longer than the mean counts at once, what is shorter over time, so that
// an endpoint that becomes slow is noticed with its first answer.
func (l *Load) Observe(took time.Duration) {
	now := int64(time.Since(start))
	last := l.latency.Load()
	next := int64(took)
	if next < last {
		w := math.Exp(-float64(now-l.at.Load()) / float64(memory))
		next = int64(float64(last)*w + float64(took)*(1-w))
	}
	// Two observations at the same time may lose one of them, which does no
	// harm.
	l.latency.Store(max(next, 1))
	l.at.Store(now)
}

// Latency returns what the next answer may take, 0 when nothing is known.
func (l *Load) Latency() time.Duration {
	return time.Duration(l.latencyAt(int64(time.Since(start))))
}

func (l *Load) latencyAt(now int64) float64 {
	last := l.latency.Load()
	if last == 0 {
		return 0
	}
	return float64(last) / (1 + float64(now-l.at.Load())/float64(memory))
}
