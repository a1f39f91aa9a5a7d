package upstream

import (
	"fmt"
	"slices"
	"sync"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// picker decides which endpoint serves an exchange. It is made for one set of
// endpoints, which never changes, and is safe for concurrent use. Further
// algorithms are further pickers; what they need to know of an endpoint is the
// endpoint's to tell.
type picker interface {
	// pick returns an endpoint that is not among the tried ones, or nil when
	// none is left.
	pick(x *exchange.Exchange, tried tried) *endpoint
}

// tried are the endpoints that an exchange has been to; nil for none.
type tried map[*endpoint]bool

// candidate is an endpoint with its share of the traffic relative to others.
type candidate struct {
	endpoint *endpoint
	weight   float64
}

// newPicker returns the picker for a balance setting.
func newPicker(balance string, c []candidate) (picker, error) {
	switch balance {
	case "round_robin", "":
		return newRoundRobin(c), nil
	}
	return nil, fmt.Errorf("balance %q is not round_robin", balance)
}

// roundRobin is smooth and weighted: every endpoint has turns at even
// distances, the shorter the heavier it is. The turns are in a heap, so that
// the cost of a pick grows with the logarithm of their number.
type roundRobin struct {
	mu    sync.Mutex
	turns []turn
}

// turn is an endpoint's next turn on a clock that only counts turns. It wraps
// around; turns are never far apart.
type turn struct {
	at, distance uint64
	order        int
	endpoint     *endpoint
}

func (t *turn) before(o *turn) bool {
	if d := int64(t.at - o.at); d != 0 {
		return d < 0
	}
	return t.order < o.order
}

func newRoundRobin(c []candidate) *roundRobin {
	r := &roundRobin{turns: make([]turn, len(c))}
	for i, c := range c {
		distance := uint64(float64(1<<32) / c.weight)
		// Beginning in the middle of a distance spreads the light ones among
		// the turns of the heavy ones.
		r.turns[i] = turn{at: distance / 2, distance: distance, order: i, endpoint: c.endpoint}
	}
	slices.SortFunc(r.turns, func(a, b turn) int {
		if a.before(&b) {
			return -1
		}
		return 1
	})
	return r
}

func (r *roundRobin) pick(_ *exchange.Exchange, tried tried) *endpoint {
	if len(r.turns) == 1 && len(tried) == 0 {
		return r.turns[0].endpoint
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	best := -1
	for i := range r.turns {
		if (best < 0 || r.turns[i].before(&r.turns[best])) && !tried[r.turns[i].endpoint] {
			best = i
		}
		if len(tried) == 0 {
			break // the top of the heap is the next
		}
	}
	if best < 0 {
		return nil
	}
	e := r.turns[best].endpoint
	r.turns[best].at += r.turns[best].distance
	r.sink(best)
	return e
}

// sink restores the heap after the turn at i has been put off.
func (r *roundRobin) sink(i int) {
	t := r.turns[i]
	for {
		child := 2*i + 1
		if child >= len(r.turns) {
			break
		}
		if child+1 < len(r.turns) && r.turns[child+1].before(&r.turns[child]) {
			child++
		}
		if !r.turns[child].before(&t) {
			break
		}
		r.turns[i] = r.turns[child]
		i = child
	}
	r.turns[i] = t
}
