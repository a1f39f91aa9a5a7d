package health

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// BreakerSettings is when a breaker opens.
type BreakerSettings struct {
	ErrorRate   float64
	Slow        time.Duration // 0: nothing is slow
	SlowRate    float64
	MinRequests int
	Window      time.Duration
	Open        time.Duration
	Probes      int
}

// Breaker refuses requests to a service that fails as a whole. It is safe for
// concurrent use; its state outlives a change of settings. The zero Breaker is
// closed and wants Set.
type Breaker struct {
	state atomic.Uint32 // a breakerState

	mu       sync.Mutex
	s        BreakerSettings
	window   Window
	until    Clock // when an open one lets probes through
	probing  int   // probes under way
	good     int   // probes that were answered well
	reason   string
	turn     uint64 // of the state: results of earlier turns do not count
	notified func(state, reason string)
}

type breakerState = uint32

const (
	closed breakerState = iota
	open
	halfOpen
)

// Set gives the breaker its settings. notify, which may be nil, is called at
// every change of state and must not block.
func (b *Breaker) Set(s BreakerSettings, notify func(state, reason string)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.s, b.notified = s, notify
	b.window.Length(s.Window)
}

// Pass is the right to send one request. Done must be called with what became
// of it.
type Pass struct {
	turn  uint64
	probe bool
}

// Probe reports whether the breaker waits for what becomes of the request.
func (p Pass) Probe() bool { return p.probe }

// Allow reports whether a request may be sent, or how long it will take until
// one may.
func (b *Breaker) Allow(now Clock) (p Pass, wait time.Duration, ok bool) {
	if b.state.Load() == closed {
		return Pass{}, 0, true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch b.state.Load() {
	case closed:
		return Pass{}, 0, true
	case open:
		if now < b.until {
			return Pass{}, time.Duration(b.until - now), false
		}
		b.enter(halfOpen, "probing after: "+b.reason)
	}
	if b.probing+b.good >= b.s.Probes {
		return Pass{}, min(b.s.Open, time.Second), false
	}
	b.probing++
	return Pass{turn: b.turn, probe: true}, 0, true
}

// Result is what became of a request.
type Result uint8

// The results of a request. None says nothing about the service: the client
// went away, or the gateway was at fault.
const (
	None Result = iota
	Good
	Bad
)

// Done says what became of a request that was allowed.
func (b *Breaker) Done(now Clock, p Pass, r Result, took time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	slow := b.s.Slow > 0 && took >= b.s.Slow
	if p.probe {
		if p.turn != b.turn {
			return
		}
		b.probing--
		switch {
		case r == None:
		case r == Bad || slow:
			b.trip(now, b.reason)
		default:
			if b.good++; b.good >= b.s.Probes {
				b.window = Window{}
				b.window.Length(b.s.Window)
				b.enter(closed, "")
			}
		}
		return
	}
	if r == None || b.state.Load() != closed {
		return
	}
	c := Counts{Total: 1}
	if r == Bad {
		c.Bad = 1
	}
	if slow {
		c.Slow = 1
	}
	b.window.Add(now, c)
	if c.Bad+c.Slow == 0 {
		return
	}
	c = b.window.Sum(now)
	switch {
	case c.Total < int64(b.s.MinRequests):
	case b.s.ErrorRate > 0 && float64(c.Bad) >= b.s.ErrorRate*float64(c.Total):
		b.trip(now, fmt.Sprintf("%d of %d requests failed", c.Bad, c.Total))
	case b.s.Slow > 0 && float64(c.Slow) >= b.s.SlowRate*float64(c.Total):
		b.trip(now, fmt.Sprintf("%d of %d requests were slow", c.Slow, c.Total))
	}
}

func (b *Breaker) trip(now Clock, reason string) {
	b.until = now + Clock(b.s.Open)
	b.enter(open, reason)
}

func (b *Breaker) enter(s breakerState, reason string) {
	b.state.Store(s)
	b.turn++
	b.probing, b.good = 0, 0
	if s != halfOpen {
		b.reason = reason
	}
	if b.notified != nil {
		b.notified(stateName(s), reason)
	}
}

func stateName(s breakerState) string {
	return [...]string{"closed", "open", "half_open"}[s]
}

// Shut reports whether the breaker would refuse a request now.
func (b *Breaker) Shut(now Clock) bool {
	if b.state.Load() == closed {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state.Load() == open && now < b.until
}

// State returns the present state and its reason.
func (b *Breaker) State() (state, reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return stateName(b.state.Load()), b.reason
}
