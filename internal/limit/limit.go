// Package limit owns the arithmetic of limits and the bounded memory that they
// are kept in: how much a key may still do, and when it may do more. It knows
// no request and no configuration: a key is a number, time is given.
//
// Memory has a ceiling that no flood of keys can raise, and no key can be made
// to forget: what is forgotten first is what has no effect any more, and when
// there is no room for a newcomer it shares its state with others.
package limit

import (
	"math"
	"time"
)

// State is what a limit says about a key.
type State struct {
	OK        bool
	Remaining int64         // units that would pass at this moment
	Reset     time.Duration // until all units are back
	Retry     time.Duration // with !OK: until what was asked for would pass; Never when it is more than the limit
}

// Clock gives the times of limits: nanoseconds since it was made, and more
// than none. State that outlasts a reload needs a clock that does.
type Clock struct{ start time.Time }

// NewClock returns a clock that starts now.
func NewClock() *Clock { return &Clock{time.Now()} }

// Now reads the clock. It is monotonic.
func (c *Clock) Now() int64 { return int64(time.Since(c.start)) + 1 }

// Never is the Retry of a request that asks for more than a limit can give.
const Never = time.Duration(math.MaxInt64)

// Limit is one limit with the state of its keys. All of it is safe for
// concurrent use. Times are those of a Clock.
type Limit interface {
	// Take takes cost units if the key may have them all.
	Take(key uint64, cost, now int64) State
	// Give gives units back that were taken for nothing.
	Give(key uint64, cost, now int64)
	// Charge takes units whether or not the key may have them: what was
	// found out too late is missing later.
	Charge(key uint64, cost, now int64)
	// Keys tells how many keys have state at present.
	Keys(now int64) int
}

// Rule says how much: Count units in a time, of which Burst at once.
type Rule struct {
	Count int64
	Per   time.Duration
	Burst int64 // at least 1
}

// gcra is the generic cell rate algorithm: one number for a key, the time at
// which its units are all back.
type gcra struct {
	interval int64 // between two units, rounded up so that a limit is never exceeded
	tau      int64 // how far ahead that time may be
}

func (r Rule) gcra() gcra {
	interval := (int64(r.Per) + r.Count - 1) / r.Count
	return gcra{interval: interval, tau: interval * r.Burst}
}

// take returns the new state of a key that had the state tat.
func (g gcra) take(tat, cost, now int64) (int64, State) {
	tat = g.clamp(tat, now)
	want := math.MaxInt64 - now // cost beyond what can be counted never passes
	if cost <= want/g.interval {
		want = cost * g.interval
	}
	if next := tat + want; want <= g.tau && next-now <= g.tau {
		return next, g.state(next, now, true)
	}
	s := g.state(tat, now, false)
	if s.Retry = Never; want <= g.tau {
		s.Retry = time.Duration(tat + want - now - g.tau)
	}
	return tat, s
}

// clamp bounds a state that another rule may have left: by what a key can owe.
func (g gcra) clamp(tat, now int64) int64 { return min(max(tat, now), now+2*g.tau) }

func (g gcra) state(tat, now int64, ok bool) State {
	return State{OK: ok, Remaining: max(g.tau-(tat-now), 0) / g.interval, Reset: time.Duration(tat - now)}
}

// charge moves a state by cost units, which may be negative. What is charged
// beyond the limit is a debt of at most one more limit.
func (g gcra) charge(tat, cost, now int64) int64 {
	room := 2*g.tau/g.interval + 1
	cost = min(max(cost, -room), room)
	return min(max(tat, now)+cost*g.interval, now+2*g.tau)
}

// The bounds of a rule. Above a million units a second rounding to nanoseconds
// would show, and a state has to fit into a number.
const (
	FastestUnit = time.Microsecond
	LongestRule = 400 * 24 * time.Hour
)

// Fits reports whether a rule can be kept.
func (r Rule) Fits() bool {
	return r.Count > 0 && r.Burst > 0 && r.Per/time.Duration(r.Count) >= FastestUnit &&
		r.Burst <= int64(LongestRule)/((int64(r.Per)+r.Count-1)/r.Count)
}
