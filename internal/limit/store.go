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
// may let pass when it cannot ask the others.
func (r Rule) Part(share float64) Rule {
	part := Rule{Count: int64(float64(r.Count) * share), Per: r.Per, Burst: max(int64(float64(r.Burst)*share), 1)}
	if part.Count < 1 {
		// Less than one in the time is one in a longer time.
		part.Count, part.Per = 1, min(time.Duration(float64(r.Per)/(float64(r.Count)*share)), LongestRule)
	}
	return part
}
