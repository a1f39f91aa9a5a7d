package balance

import (
	"math"
	"math/bits"
	"slices"
	"sync/atomic"
)

// ring is consistent hashing with bounded loads: every member stands at many
// points of a ring, a key belongs to the first point at or after its own, and
// one that is too busy is passed over. When a member leaves only its own keys
// move. With equal weights the points of the others stay where they are.
type ring struct {
	members []Member
	points  []point
	firsts  []uint32 // by the upper bits of a hash: the first point that may be its own
	shift   uint

	slack  float64
	weight float64 // of all members
	active *atomic.Int64
}

type point struct {
	hash   uint64
	member int32
}

// pointsEach is how many points a member of mean weight has. More make shares
// more even, and a ring longer to build.
const pointsEach = 100

func newRing(members []Member, slack float64, active *atomic.Int64) *ring {
	r := &ring{members: members, slack: slack, active: active}
	if r.active == nil {
		r.active = new(atomic.Int64)
	}
	for _, m := range members {
		r.weight += m.Weight
	}
	mean := r.weight / float64(len(members))
	for i, m := range members {
		n := min(max(1, int(math.Round(pointsEach*m.Weight/mean))), 100*pointsEach)
		h := Hash(m.ID)
		for range n {
			h = mix(h + 0x9e3779b97f4a7c15)
			r.points = append(r.points, point{h, int32(i)})
		}
	}
	slices.SortFunc(r.points, func(a, b point) int {
		switch {
		case a.hash < b.hash:
			return -1
		case a.hash > b.hash:
			return 1
		}
		// By identity, so that the order of the members does not matter.
		if members[a.member].ID < members[b.member].ID {
			return -1
		}
		return 1
	})
	r.shift = uint(64 - bits.Len(uint(len(r.points))))
	r.firsts = make([]uint32, 1<<(64-r.shift)+1)
	at := 0
	for b := range r.firsts {
		for at < len(r.points) && b > 0 && r.points[at].hash>>r.shift < uint64(b) {
			at++
		}
		r.firsts[b] = uint32(at)
	}
	return r
}

// unbounded is how many requests a member may have whatever the others have: a
// few at a time are no burden, and keys need not move for them.
const unbounded = 8

func (r *ring) Pick(key uint64, tried []*Load) int {
	if len(r.points) == 0 {
		return -1
	}
	at := int(r.firsts[key>>r.shift])
	for at < len(r.points) && r.points[at].hash < key {
		at++
	}
	total := float64(r.active.Load()+1) * (1 + r.slack) / r.weight
	last, otherwise := int32(-1), -1
	for range r.points {
		if at == len(r.points) {
			at = 0
		}
		i := r.points[at].member
		at++
		if i == last {
			continue
		}
		last = i
		m := &r.members[i]
		if len(tried) > 0 && slices.Contains(tried, m.Load) {
			continue
		}
		if float64(m.Load.active.Load()) < max(unbounded, math.Ceil(total*m.Weight)) {
			return int(i)
		}
		if otherwise < 0 {
			otherwise = int(i)
		}
	}
	return otherwise
}

// Hash returns the key of a value. It is the same in every process, so that
// gateways agree on whose a key is; what a chosen value could overload is
// bounded by the ring.
func Hash(s string) uint64 {
	h := uint64(0xcbf29ce484222325) // FNV-1a
	for i := 0; i < len(s); i++ {
		h = (h ^ uint64(s[i])) * 0x100000001b3
	}
	return mix(h)
}

// mix spreads the bits of a hash (the finalizer of splitmix64).
func mix(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}
