package wire

import "time"

// SetTimeout makes reads and writes fail with ErrTimeout once d has passed
// without progress; 0 takes the limit away. It is a store and no timer: the
// sweeper looks every Tick, so a timeout comes up to two ticks late and never
// early. The time begins anew with every step of Splice, and with every part of
// a write that goes out.
func (c *Conn) SetTimeout(d time.Duration) {
	if c.timeout.Load() != int64(d) { // a load is cheaper than a store
		c.timeout.Store(int64(d))
	}
	c.progress()
}

// SetLimit makes reads and writes fail with ErrTimeout once d has passed,
// whatever progress is made until then; 0 takes the limit away. It is as late
// as SetTimeout, and of effect from the next SetTimeout on.
func (c *Conn) SetLimit(d time.Duration) {
	at := int64(0)
	if d > 0 {
		at = c.sweeper.now.Load() + int64(d+Tick)
	}
	c.limit.Store(at)
}

// Limited reports whether the time given to SetLimit has passed.
func (c *Conn) Limited() bool {
	at := c.limit.Load()
	return at != 0 && c.sweeper.now.Load() >= at
}

// progress begins the time of SetTimeout anew.
func (c *Conn) progress() { c.deadline.Store(c.due()) }

// due returns the deadline of a time that begins now.
func (c *Conn) due() int64 {
	at := c.limit.Load()
	if d := c.timeout.Load(); d > 0 {
		if t := c.sweeper.now.Load() + d + int64(Tick); at == 0 || t < at {
			at = t
		}
	}
	return at
}

// SetPace makes Splice from this connection fail with ErrTimeout when, after
// grace, fewer than rate bytes a second have come on the average. Only the
// time spent waiting for them counts. A rate of 0 takes the limit away.
func (c *Conn) SetPace(rate int64, grace time.Duration) {
	c.pace = pace{rate: rate, grace: int64(grace), start: c.sweeper.now.Load()}
	c.came(0)
}

// pace is the least speed at which Splice must receive bytes.
type pace struct {
	rate, grace, start, moved int64
}

// came takes note of n bytes that Splice received.
func (c *Conn) came(n int64) {
	c.progress()
	p := &c.pace
	if p.rate <= 0 {
		return
	}
	p.moved += n
	spare := max(p.grace, int64(float64(p.moved)/float64(p.rate)*1e9))
	end := p.start + spare + int64(Tick)
	if d := c.deadline.Load(); d == 0 || end < d {
		c.deadline.Store(end)
	}
}

// held takes note that Splice did not wait for this connection since a time.
func (c *Conn) held(since int64) { c.pace.start += c.sweeper.now.Load() - since }

// Held returns for how long Splice from this connection was busy with the
// other one, so far. Only differences mean anything.
func (c *Conn) Held() time.Duration { return c.holdup }

// Clock returns the sweeper's time, which is at most a Tick old.
func (c *Conn) Clock() time.Duration { return c.sweeper.Now() }
