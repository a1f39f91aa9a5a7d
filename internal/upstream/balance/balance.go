// Package balance owns the choice among endpoints: the algorithms, and what
// they know of how busy and how quick an endpoint is. It knows no sockets, no
// health and no settings beyond its own, and refuses to wait: a pick is a few
// dozen nanoseconds and allocates nothing.
package balance

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"
)

// Member is an endpoint with its share of the traffic relative to others.
type Member struct {
	ID     string  // the same wherever the endpoint is the same
	Weight float64 // above 0
	Load   *Load   // the endpoint's own
}

// Picker chooses among members that never change. It is safe for concurrent
// use.
type Picker interface {
	// Pick returns the index of a member whose load is not among the tried
	// ones, or -1 when none is left. key is what Hash made of the request; of
	// the algorithms that do not hash it is not used.
	Pick(key uint64, tried []*Load) int
}

// Options are what some algorithms need.
type Options struct {
	Slack  float64       // of hash: how far above the mean load a member may go
	Active *atomic.Int64 // of hash: the requests in flight at all members together
	Before Picker        // what is replaced; round robin goes on where it was
}

// New returns a picker. Algorithms are round_robin, random, least_requests,
// ewma and hash.
func New(algorithm string, members []Member, o Options) (Picker, error) {
	switch algorithm {
	case "round_robin":
		return newRoundRobin(members, o.Before), nil
	case "random":
		return newDice(members), nil
	case "least_requests":
		return &lesser{dice: newDice(members), cost: busy, ahead: 1}, nil
	case "ewma":
		return &lesser{dice: newDice(members), cost: slow, ahead: 0.9}, nil
	case "hash":
		return newRing(members, o.Slack, o.Active), nil
	}
	return nil, fmt.Errorf("balance algorithm %q is not known", algorithm)
}

// dice chooses at random, by weight, in constant time: each column of the
// table is split between two members (Walker's alias method).
type dice struct {
	members []Member
	columns []column
}

type column struct {
	upto         uint32 // below it the first one is meant
	first, other int32
}

func newDice(members []Member) *dice {
	d := &dice{members: members, columns: make([]column, len(members))}
	sum := 0.0
	for _, m := range members {
		sum += m.Weight
	}
	share := make([]float64, len(members))
	var small, large []int
	for i, m := range members {
		if share[i] = m.Weight / sum * float64(len(members)); share[i] < 1 {
			small = append(small, i)
		} else {
			large = append(large, i)
		}
	}
	const whole = 1<<32 - 1
	for len(small) > 0 && len(large) > 0 {
		s, l := small[len(small)-1], large[len(large)-1]
		small = small[:len(small)-1]
		d.columns[s] = column{uint32(share[s] * whole), int32(s), int32(l)}
		if share[l] -= 1 - share[s]; share[l] < 1 {
			large = large[:len(large)-1]
			small = append(small, l)
		}
	}
	for _, i := range append(small, large...) { // what is left is whole, but for rounding
		d.columns[i] = column{whole, int32(i), int32(i)}
	}
	return d
}

// throw chooses among all members.
func (d *dice) throw() int {
	r := rand.Uint64()
	c := &d.columns[(r>>32)*uint64(len(d.columns))>>32]
	if uint32(r) <= c.upto {
		return int(c.first)
	}
	return int(c.other)
}

// throws is how often the dice are thrown for one that was not tried before
// the others are looked at one by one.
const throws = 4

func (d *dice) Pick(_ uint64, tried []*Load) int {
	if len(d.members) == 0 {
		return -1
	}
	for range throws {
		if i := d.throw(); len(tried) == 0 || !slices.Contains(tried, d.members[i].Load) {
			return i
		}
	}
	return untried(d.members, rand.IntN(len(d.members)), tried)
}

// untried returns the first member at or after a place that was not tried.
func untried(members []Member, at int, tried []*Load) int {
	for range members {
		if !slices.Contains(tried, members[at].Load) {
			return at
		}
		if at++; at == len(members) {
			at = 0
		}
	}
	return -1
}

// lesser throws the dice twice and takes the one that costs less: nearly as
// good as knowing all, without everybody running to the same one.
type lesser struct {
	*dice
	cost  func(m *Member, now int64) float64
	ahead float64 // what part of the other's cost is clearly less
}

func (l *lesser) Pick(_ uint64, tried []*Load) int {
	a := l.dice.Pick(0, tried)
	if a < 0 || len(l.members) == 1 {
		return a
	}
	b := l.throw()
	if b == a {
		b = (a + 1 + rand.IntN(len(l.members)-1)) % len(l.members)
	}
	if len(tried) > 0 && slices.Contains(tried, l.members[b].Load) {
		return a
	}
	// Latencies that are nearly the same are left to the dice, or everybody
	// would run to the one that is ahead by a hair.
	now := int64(time.Since(start))
	if l.cost(&l.members[b], now) < l.ahead*l.cost(&l.members[a], now) {
		return b
	}
	return a
}

// busy is how many requests a member has, for its weight.
func busy(m *Member, _ int64) float64 { return float64(m.Load.active.Load()) / m.Weight }

// slow is how long a member is likely to take: its latency, once more for each
// request that it already has.
func slow(m *Member, now int64) float64 {
	active := float64(m.Load.active.Load()) / m.Weight
	latency := m.Load.latencyAt(now)
	if latency == 0 {
		// Nothing is known: it gets a request to learn from, not all of them.
		return active * 1e9
	}
	return latency * (1 + active)
}
