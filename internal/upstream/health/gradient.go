package health

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Gradient finds out how many requests a service can have at a time: while
// answers take longer than they need to, it is fewer. How long they need is
// measured now and then with few requests. It is safe for concurrent use.
type Gradient struct {
	min, max float64
	current  atomic.Int64

	mu       sync.Mutex
	limit    float64
	base     time.Duration // what an answer takes when nothing waits
	measured Clock         // when that was measured
	measure  int           // windows left until few requests show it, 0 while not measuring
	ends     Clock         // of this window
	sum      time.Duration
	n        int
	busiest  int
}

const (
	gradientWindow = 500 * time.Millisecond
	gradientFewest = 5   // answers that say something about a window
	tolerance      = 1.5 // times the base that is no sign of waiting
	measureEvery   = 30 * time.Second
	few            = 0.25 // part of the limit that is used while measuring
)

// NewGradient returns a limit between least and most, where 0 means 1000.
func NewGradient(least, most int) *Gradient {
	if most == 0 {
		most = 1000
	}
	g := &Gradient{min: float64(least), max: float64(most)}
	g.limit = min(max(20, g.min), g.max)
	g.current.Store(int64(g.limit))
	return g
}

// Limit returns the present limit.
func (g *Gradient) Limit() int { return int(g.current.Load()) }

// Observe takes note of an answer, or of a timeout, and of how many requests
// there were at that time. It reports whether the limit changed.
func (g *Gradient) Observe(now Clock, took time.Duration, active int) (changed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sum += took
	g.n++
	g.busiest = max(g.busiest, active)
	if now < g.ends || g.n < gradientFewest {
		return false
	}
	g.judge(now, g.sum/time.Duration(g.n))
	g.sum, g.n, g.busiest, g.ends = 0, 0, 0, now+Clock(gradientWindow)
	next := int64(g.limit)
	if g.measure > 0 {
		next = int64(max(g.min, few*g.limit))
	}
	return g.current.Swap(next) != next
}

// judge sets the limit by the mean time of a window's answers.
func (g *Gradient) judge(now Clock, mean time.Duration) {
	quiet := float64(g.busiest) < 2*few*g.limit
	switch {
	case g.measure > 1: // the first window still has requests from before
		g.measure--
		return
	case g.measure == 1:
		g.measure, g.base, g.measured = 0, mean, now
		return
	case g.base == 0 || mean < g.base || quiet:
		g.base, g.measured = mean, now
	case time.Duration(now-g.measured) >= measureEvery:
		g.measure = 2
		return
	}
	if quiet {
		return // nobody asks for more
	}
	gradient := min(1, max(0.5, tolerance*float64(g.base)/float64(mean)))
	g.limit = min(max(g.limit*gradient+math.Sqrt(g.limit), g.min), g.max)
}
