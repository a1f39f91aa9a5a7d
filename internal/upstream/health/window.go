// Package health owns the judgement of endpoints and services by what became
// of their requests: outliers, active checks, the breaker, budgets of retries,
// adaptive limits. It is arithmetic over time: it sends nothing, starts
// nothing, and is told every result.
package health

import (
	"math/bits"
	"sync"
	"time"
)

// Clock is a reading of a monotonic clock.
type Clock time.Duration

// Now reads the clock. Only differences mean anything. It is above zero under
// the virtual clocks of tests too, whose time lies before the process's start.
func Now() Clock { return Clock(time.Since(start)) + 1<<62 }

var start = time.Now()

// slots is how many parts a window has: what is forgotten is forgotten in
// steps of such a part.
const slots = 10

// Counts are what happened within a window.
type Counts struct {
	Total, Bad, Slow int64
	Took             time.Duration // of all together
}

// Window counts over the last so many seconds. It is not safe for concurrent
// use; the zero Window counts over ten seconds.
type Window struct {
	slot [slots]Counts
	sum  Counts
	step time.Duration
	at   int64 // number of the step that the last count was in
}

// Length changes how long the window is, and empties it when it was another.
func (w *Window) Length(d time.Duration) {
	if step := max(d/slots, 1); step != w.step {
		*w = Window{step: step}
	}
}

// turn forgets what is older than the window.
func (w *Window) turn(now Clock) {
	if w.step == 0 {
		w.step = time.Second
	}
	at := int64(now) / int64(w.step)
	if at <= w.at {
		return
	}
	for n := w.at + 1; n <= at && n <= w.at+slots; n++ {
		s := &w.slot[(at-(n-w.at-1))%slots]
		w.sum.Total -= s.Total
		w.sum.Bad -= s.Bad
		w.sum.Slow -= s.Slow
		w.sum.Took -= s.Took
		*s = Counts{}
	}
	w.at = at
}

// Add counts one more of everything in c.
func (w *Window) Add(now Clock, c Counts) {
	w.turn(now)
	s := &w.slot[w.at%slots]
	for _, to := range [...]*Counts{s, &w.sum} {
		to.Total += c.Total
		to.Bad += c.Bad
		to.Slow += c.Slow
		to.Took += c.Took
	}
}

// Sum returns what the window holds.
func (w *Window) Sum(now Clock) Counts {
	w.turn(now)
	return w.sum
}

// Budget allows extra requests as a share of the ordinary ones of the last
// ten seconds. It is safe for concurrent use.
type Budget struct {
	Share   float64
	Reserve int64 // extra requests within ten seconds that are allowed in any case

	mu     sync.Mutex
	window Window
	saved  float64 // what ordinary requests have earned and nobody has spent
}

// mostSaved is how many extra requests may be saved up. It is few, so that an
// outage does not begin with what a good day has saved.
const mostSaved = 10

// Count counts an ordinary request.
func (b *Budget) Count(now Clock) {
	b.mu.Lock()
	b.window.Add(now, Counts{Total: 1})
	b.saved = min(b.saved+b.Share, mostSaved)
	b.mu.Unlock()
}

// Take reports whether an extra request may be made, and counts it. What comes
// out of the reserve is paid back before anything else is spent, so that the
// share holds in the long run as well.
func (b *Budget) Take(now Clock) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.window.Sum(now)
	if c.Bad >= b.Reserve && (b.saved < 1 || float64(c.Bad+1) > b.Share*float64(c.Total)) {
		return false
	}
	b.spend(now)
	return true
}

// Force counts an extra request that is made in any case.
func (b *Budget) Force(now Clock) {
	b.mu.Lock()
	b.spend(now)
	b.mu.Unlock()
}

func (b *Budget) spend(now Clock) {
	b.window.Add(now, Counts{Bad: 1})
	b.saved = max(b.saved-1, -float64(mostSaved+b.Reserve))
}

// Percentiles knows how long answers take, within an eighth. It remembers
// about a minute, and is safe for concurrent use.
type Percentiles struct {
	mu      sync.Mutex
	counts  [2][64 * 8]uint32 // of this half minute, and of the one before
	total   [2]int
	turned  Clock
	known   map[float64]time.Duration
	checked Clock
}

const (
	generation = 30 * time.Second
	// fewest is how many answers say something about their distribution.
	fewest = 50
)

// Observe takes note of an answer's time.
func (p *Percentiles) Observe(now Clock, took time.Duration) {
	p.mu.Lock()
	p.turn(now)
	p.counts[0][bucket(took)]++
	p.total[0]++
	p.mu.Unlock()
}

func (p *Percentiles) turn(now Clock) {
	for gone := 0; time.Duration(now-p.turned) >= generation; gone++ {
		if gone == 2 { // both are old
			p.turned = now
			return
		}
		p.counts[1], p.total[1] = p.counts[0], p.total[0]
		clear(p.counts[0][:])
		p.total[0] = 0
		p.turned += Clock(generation)
	}
}

// At returns the time within which a share of the answers came, 0 when too few
// came to tell. It is up to a second old.
func (p *Percentiles) At(now Clock, share float64) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known == nil || time.Duration(now-p.checked) >= time.Second {
		p.known, p.checked = make(map[float64]time.Duration), now
	} else if d, ok := p.known[share]; ok {
		return d
	}
	p.turn(now)
	d := time.Duration(0)
	if total := p.total[0] + p.total[1]; total >= fewest {
		left := int(share * float64(total))
		for i := range p.counts[0] {
			if left -= int(p.counts[0][i] + p.counts[1][i]); left < 0 {
				d = upper(i)
				break
			}
		}
		p.known[share] = d
	}
	return d
}

// bucket numbers a time: eight for each power of two.
func bucket(d time.Duration) int {
	v := uint64(max(d, 8))
	e := bits.Len64(v) - 1
	return e*8 + int(v>>(e-3))&7
}

// upper is the end of a bucket.
func upper(i int) time.Duration {
	e := i / 8
	return time.Duration(uint64(8+i%8+1) << e >> 3)
}
