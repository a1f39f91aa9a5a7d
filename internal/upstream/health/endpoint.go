package health

import (
	"fmt"
	"sync"
	"time"
)

// Endpoint is what is known of one endpoint's health. It holds no settings, so
// that it can outlive them. It is safe for concurrent use; of the zero
// Endpoint nothing is known, and it is taken to be healthy.
type Endpoint struct {
	mu sync.Mutex

	check   check
	run     int    // results of checks in a row that are not what check says
	checked string // why it is what it is

	errors    int // in a row
	window    Window
	ejected   Clock // until when, 0 for not
	ejections int   // so far; fewer with every good time
	returned  Clock // when the last ejection ended, or was last forgiven
	ejection  string

	resting Clock // until when it asked to be spared
	since   Clock // since when it has taken requests; for slow start
	born    bool
}

type check uint8

const (
	unchecked check = iota
	passing
	failing
)

// Status is what is known of an endpoint at one time.
type Status struct {
	Usable  bool
	State   string // healthy, unhealthy (by checks) or ejected (by live traffic)
	Reason  string // of a state that is not healthy; else of the last check
	Until   time.Duration
	Ejected int // how often lately
}

// Status returns the present state.
func (e *Endpoint) Status(now Clock) Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.check == failing:
		return Status{State: "unhealthy", Reason: e.checked, Ejected: e.ejections}
	case e.ejected > now:
		return Status{State: "ejected", Reason: e.ejection, Until: time.Duration(e.ejected - now), Ejected: e.ejections}
	}
	return Status{Usable: true, State: "healthy", Reason: e.checked, Ejected: e.ejections}
}

// Usable reports whether the endpoint should get requests.
func (e *Endpoint) Usable(now Clock) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.check != failing && e.ejected <= now
}

// Checked takes the result of an active check, and reports whether the state
// changed with it. The first result decides at once.
func (e *Endpoint) Checked(now Clock, good bool, reason string, healthy, unhealthy int) (changed bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	is, need := passing, healthy
	if !good {
		is, need = failing, unhealthy
	}
	if e.check == is {
		e.run, e.checked = 0, reason
		return false
	}
	e.run++
	if e.check != unchecked && e.run < need {
		return false
	}
	changed = e.check != unchecked || !good
	e.check, e.run, e.checked = is, 0, reason
	if good && changed {
		e.since = now
		e.errors = 0
	}
	return changed
}

// Unchecked forgets what checks found: nobody checks any more.
func (e *Endpoint) Unchecked() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.check, e.run, e.checked = unchecked, 0, ""
}

// Outlier is when an endpoint is ejected.
type Outlier struct {
	ConsecutiveErrors int     // 0: never
	ErrorRate         float64 // 0: never
	MinRequests       int
	Window            time.Duration
	Eject, EjectMax   time.Duration
}

// Record takes note of what became of a request. It returns why the endpoint
// should be ejected, or is already, or "". What fails while it is ejected was
// asked before, and is not held against it when it returns.
func (e *Endpoint) Record(now Clock, o *Outlier, failed bool, took time.Duration) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if failed && e.ejected > now {
		return e.ejection
	}
	e.window.Length(o.Window)
	c := Counts{Total: 1, Took: took}
	if failed {
		c.Bad = 1
		e.errors++
	} else {
		e.errors = 0
	}
	e.window.Add(now, c)
	if !failed {
		return ""
	}
	if o.ConsecutiveErrors > 0 && e.errors >= o.ConsecutiveErrors {
		return fmt.Sprintf("%d errors in a row", e.errors)
	}
	if c := e.window.Sum(now); o.ErrorRate > 0 && c.Total >= int64(o.MinRequests) && float64(c.Bad) >= o.ErrorRate*float64(c.Total) {
		return fmt.Sprintf("%d of %d requests failed", c.Bad, c.Total)
	}
	return ""
}

// Mean returns the mean time of the window's requests, and their number.
func (e *Endpoint) Mean(now Clock) (time.Duration, int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.window.Sum(now)
	if c.Total == 0 {
		return 0, 0
	}
	return c.Took / time.Duration(c.Total), c.Total
}

// Eject takes the endpoint out for a while, longer each time, and returns for
// how long. A good time as long as an ejection takes one of them back.
func (e *Endpoint) Eject(now Clock, o *Outlier, reason string) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	if o.Eject > 0 && e.ejections > 0 {
		good := int(time.Duration(now-e.returned) / o.Eject)
		e.ejections = max(e.ejections-max(good-1, 0), 0)
	}
	e.ejections++
	d := min(time.Duration(e.ejections)*o.Eject, o.EjectMax)
	e.ejected, e.ejection = now+Clock(d), reason
	e.returned = e.ejected
	e.since = e.ejected
	e.errors = 0
	e.window = Window{}
	return d
}

// Pardon ends an ejection before its time.
func (e *Endpoint) Pardon(now Clock) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ejected > now {
		e.ejected, e.returned, e.since = now, now, now
	}
}

// Rest spares the endpoint for a while, as it asked for.
func (e *Endpoint) Rest(until Clock) {
	e.mu.Lock()
	e.resting = max(e.resting, until)
	e.mu.Unlock()
}

// Resting reports whether the endpoint asked to be spared at present.
func (e *Endpoint) Resting(now Clock) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.resting > now
}

// RestLeft returns how long the endpoint asked to be spared still.
func (e *Endpoint) RestLeft(now Clock) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	return max(time.Duration(e.resting-now), 0)
}

// Begin says that the endpoint is among those that get requests. warm means
// that it has its full share at once: it was there from the beginning.
func (e *Endpoint) Begin(now Clock, warm bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.born {
		e.born = true
		if e.since = now; warm {
			e.since = 0
		}
	}
}

// Warmth is what part of its full share an endpoint gets that takes d to come
// to it. It is at least a tenth.
func (e *Endpoint) Warmth(now Clock, d time.Duration) float64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	if d <= 0 || e.since == 0 || !e.born {
		return 1
	}
	return min(max(float64(now-e.since)/float64(d), 0.1), 1)
}
