package balance

import (
	"slices"
	"sync"
)

// roundRobin is smooth and weighted: every member has turns at even distances,
// the shorter the heavier it is. The turns are in a heap, so that the cost of
// a pick grows with the logarithm of their number.
type roundRobin struct {
	mu    sync.Mutex
	turns []turn
}

// turn is a member's next turn on a clock that only counts turns. It wraps
// around; turns are never far apart.
type turn struct {
	at, distance uint64
	order        int
	load         *Load
}

func (t *turn) before(o *turn) bool {
	if d := int64(t.at - o.at); d != 0 {
		return d < 0
	}
	return t.order < o.order
}

func newRoundRobin(members []Member, before Picker) *roundRobin {
	r := &roundRobin{turns: make([]turn, len(members))}
	waits := make(map[*Load]uint64)
	if old, ok := before.(*roundRobin); ok {
		old.waits(waits)
	}
	for i, m := range members {
		distance := uint64(float64(1<<32) / m.Weight)
		// Beginning in the middle of a distance spreads the light ones among
		// the turns of the heavy ones.
		at := distance / 2
		if w, ok := waits[m.Load]; ok {
			at = min(w, distance)
		}
		r.turns[i] = turn{at: at, distance: distance, order: i, load: m.Load}
	}
	slices.SortFunc(r.turns, func(a, b turn) int {
		if a.before(&b) {
			return -1
		}
		return 1
	})
	return r
}

// waits tells how far away the turn of each member is.
func (r *roundRobin) waits(into map[*Load]uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.turns {
		into[r.turns[i].load] = r.turns[i].at - r.turns[0].at
	}
}

func (r *roundRobin) Pick(_ uint64, tried []*Load) int {
	if len(r.turns) == 1 && len(tried) == 0 {
		return 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	best := -1
	for i := range r.turns {
		if (best < 0 || r.turns[i].before(&r.turns[best])) && (len(tried) == 0 || !slices.Contains(tried, r.turns[i].load)) {
			best = i
		}
		if len(tried) == 0 {
			break // the top of the heap is the next
		}
	}
	if best < 0 {
		return -1
	}
	order := r.turns[best].order
	r.turns[best].at += r.turns[best].distance
	r.sink(best)
	return order
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
