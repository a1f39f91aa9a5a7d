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
	spare func(reason string)
}

// Why a request went on that would have been refused.
const (
	DryRun   = "dry_run"   // the settings only try the policy out
	FailOpen = "fail_open" // what decides did not answer, and the settings say to go on
)

// NewTeller returns a teller that names the place of the policy.
func NewTeller(env *Env) *Teller {
	return &Teller{log: env.Log.With("path", env.Path), start: time.Now(), spare: env.Spared}
}

// Spared counts a request that went on although the policy had refused it, or
// had not been able to decide, and logs it as Warn does.
func (t *Teller) Spared(reason, text string, args ...any) {
	if t.spare != nil {
		t.spare(reason)
	}
	t.Warn(text, args...)
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
