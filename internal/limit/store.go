package limit

import (
	"context"
	"time"
)

// Call asks a store shared by several gateways about one key.
type Call struct {
	Key   string // names the limit and the key, the same on every gateway
	Rule  Rule
	Exact bool // an exact window instead of GCRA
	Cost  int64
	State State // the answer
}

// Store keeps the state of limits for several gateways.
type Store interface {
	// Take takes what each call asks for, in one round trip, and fills in the
	// states. With an error nothing is known, and it comes before the
	// context's deadline.
	Take(ctx context.Context, calls []Call) error
	// Add takes Cost units of each call whether or not it may have them;
	// negative ones are given back.
	Add(ctx context.Context, calls []Call) error
}

// Part returns the rule for a share of a limit: what one of several gateways
// may let pass when it cannot ask the others. Where that is less than cost, it
// is cost in a longer time.
func (r Rule) Part(share float64, cost int64) Rule {
	part := Rule{Count: int64(float64(r.Count) * share), Per: r.Per, Burst: max(int64(float64(r.Burst)*share), cost)}
	if part.Count < cost {
		longer := float64(r.Per) * float64(cost) / (float64(r.Count) * share)
		part.Count, part.Per = cost, time.Duration(min(longer, float64(LongestRule)))
	}
	return part
}

// Quota is a count over slots of time: the present one and those before it.
// A calendar month is one slot; a rolling day may be 96 of them.
type Quota struct {
	Key   string
	Limit int64
	Cost  int64         // may be 0, to look, or negative, to give back
	Slot  int64         // number of the present slot
	Slots int64         // how many count, the present one included
	Keep  time.Duration // how long what is counted now can matter
	Force bool          // count even over the limit
}

// Quotas keeps quotas for several gateways, or over restarts.
type Quotas interface {
	// Use counts Cost unless that would go over the limit. used is the count
	// after that.
	Use(ctx context.Context, q Quota) (used int64, ok bool, err error)
}
