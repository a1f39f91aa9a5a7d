package policy

import (
	"log/slog"
	"sync/atomic"
	"time"
)

// Teller logs the events of a policy at most once a second: what a client can
// cause as often as it likes must not fill a log.
type Teller struct {
	log   *slog.Logger
	start time.Time
	last  atomic.Int64
	left  atomic.Int64 // events that were not logged since
}

// NewTeller returns a teller that names the place of the policy.
func NewTeller(env *Env) *Teller {
	return &Teller{log: env.Log.With("path", env.Path), start: time.Now()}
}

// Warn logs an event, and how many before it were left out.
func (t *Teller) Warn(text string, args ...any) {
	now, last := int64(time.Since(t.start))+1, t.last.Load()
	if last != 0 && now-last < int64(time.Second) || !t.last.CompareAndSwap(last, now) {
		t.left.Add(1)
		return
	}
	if n := t.left.Swap(0); n > 0 {
		args = append(args, "left_out", n)
	}
	t.log.Warn(text, args...)
}
