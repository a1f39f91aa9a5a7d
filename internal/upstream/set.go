package upstream

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"gatehouse.dev/gatehouse/internal/upstream/balance"
	"gatehouse.dev/gatehouse/internal/upstream/health"
)

// set is what there is to choose from at one time. It does not change: when an
// endpoint comes, goes, falls ill or gets well there is another set.
type set struct {
	members []member
	lanes   []lane
	tokens  map[token]int // members by what a sticky cookie says, nil without
	panics  bool          // health is ignored
}

// member is an endpoint with what its place in the set is.
type member struct {
	e        *endpoint
	weight   float64
	zone     string
	priority int
	usable   bool
	spared   bool // it asked to be left alone for a while
	warmth   float64
}

// lane is a part of the endpoints that takes a share of the traffic: a
// priority tier, or what of it is in the gateway's zone or elsewhere.
type lane struct {
	picker    balance.Picker
	endpoints []*endpoint
	upto      float64 // running sum of the shares, 1 at the last
}

// pick returns an endpoint that was not tried yet, or nil. Requests with the
// same key come to the same lane.
func (s *set) pick(key uint64, keyed bool, tried []*balance.Load) *endpoint {
	if len(s.lanes) == 0 {
		return nil
	}
	first := 0
	if len(s.lanes) > 1 {
		at := rand.Float64()
		if keyed {
			at = float64(key*0x9e3779b97f4a7c15>>11) / (1 << 53)
		}
		for first < len(s.lanes)-1 && at >= s.lanes[first].upto {
			first++
		}
	}
	for i := range s.lanes {
		l := &s.lanes[(first+i)%len(s.lanes)]
		if at := l.picker.Pick(key, tried); at >= 0 {
			return l.endpoints[at]
		}
	}
	return nil
}

// fill decides which members get requests, and how they share them.
func (u *Upstream) fill(s *set) {
	now := health.Now()
	all, good := 0.0, 0.0
	for i := range s.members {
		m := &s.members[i]
		r := &m.e.record.health
		m.usable = u.usable(m.e, now)
		m.spared = u.retry != nil && r.Resting(now)
		m.warmth = r.Warmth(now, u.slowStart)
		if all += m.weight; m.usable {
			good += m.weight
		}
	}
	s.panics = all > 0 && good < u.balance.Panic*all
	if s.lay(u, true); len(s.lanes) == 0 {
		s.lay(u, false) // all asked to be spared: somebody has to
	}
}

// lay makes the lanes. Each tier takes of what the tiers before it left: all
// while enough of it is healthy, else as much less as it is below that.
func (s *set) lay(u *Upstream, spare bool) {
	takes := func(m *member) bool { return (m.usable || s.panics) && !(spare && m.spared) }
	tiers := make(map[int][]*member)
	for i := range s.members {
		tiers[s.members[i].priority] = append(tiers[s.members[i].priority], &s.members[i])
	}
	var order []int
	for p := range tiers {
		order = append(order, p)
	}
	slices.Sort(order)
	left := 1.0
	s.lanes = nil
	for _, p := range order {
		share := left * min(1, healthy(tiers[p], takes)/u.balance.Spill)
		left -= share
		var near, far []*member
		for _, m := range tiers[p] {
			if u.zone != "" && m.zone == u.zone {
				near = append(near, m)
			} else {
				far = append(far, m)
			}
		}
		own := 0.0
		switch {
		case len(near) == 0:
		case healthy(far, takes) == 0:
			own = share
		default:
			own = share * min(1, healthy(near, takes)/u.balance.Spill)
		}
		s.lane(u, near, takes, own)
		s.lane(u, far, takes, share-own)
	}
	s.share()
}

// healthy is the share of members, by weight, that take requests.
func healthy(members []*member, takes func(*member) bool) float64 {
	all, good := 0.0, 0.0
	for _, m := range members {
		if all += m.weight; takes(m) {
			good += m.weight
		}
	}
	if all == 0 {
		return 0
	}
	return good / all
}

// lane adds a lane with those of the members that take requests. One without a
// share is there for whoever tries again.
func (s *set) lane(u *Upstream, members []*member, takes func(*member) bool, share float64) {
	l := lane{upto: share}
	var with []balance.Member
	for _, m := range members {
		if takes(m) {
			l.endpoints = append(l.endpoints, m.e)
			with = append(with, balance.Member{ID: m.e.record.key, Weight: m.weight * m.warmth, Load: &m.e.record.load})
		}
	}
	if len(with) == 0 {
		return
	}
	var before balance.Picker
	if old := u.live.Load(); old != nil && len(s.lanes) < len(old.lanes) {
		before = old.lanes[len(s.lanes)].picker
	}
	// New has seen that there is such an algorithm.
	l.picker, _ = balance.New(u.balance.Algorithm, with, balance.Options{Slack: u.balance.Slack, Active: &u.active, Before: before})
	s.lanes = append(s.lanes, l)
}

// share turns shares into running sums that end at 1.
func (s *set) share() {
	sum := 0.0
	for i := range s.lanes {
		sum += s.lanes[i].upto
		s.lanes[i].upto = sum
	}
	for i := range s.lanes {
		if sum == 0 { // no tier has a share: they take turns evenly
			s.lanes[i].upto = float64(i+1) / float64(len(s.lanes))
		} else {
			s.lanes[i].upto /= sum
		}
	}
}

// usable reports whether an endpoint is well, as far as the settings ask.
func (u *Upstream) usable(e *endpoint, now health.Clock) bool {
	st := e.record.health.Status(now)
	return st.Usable || st.State == "unhealthy" && u.health == nil || st.State == "ejected" && u.outlier == nil
}

// place is what makes an endpoint the same one.
type place struct {
	network, address, host string
	scheme                 scheme
}

func (p place) String() string { return string(p.scheme) + "://" + p.host + " " + p.address }

// rebuild makes the set anew from the addresses of all sites and the health of
// their endpoints. Endpoints that were there before keep their connections.
func (u *Upstream) rebuild() {
	u.mu.Lock()
	defer u.mu.Unlock()
	before := make(map[place]*endpoint)
	for _, m := range u.live.Load().members {
		before[m.e.place] = m.e
	}
	next := &set{}
	index := make(map[place]int)
	warm := !u.built
	for _, s := range slices.Concat(u.sites, u.discovered) {
		for _, address := range s.addresses {
			p := place{s.network, address, s.host, s.scheme}
			weight := float64(s.weight) / float64(len(s.addresses))
			if at, ok := index[p]; ok {
				next.members[at].weight += weight
				continue
			}
			e := before[p]
			if e == nil {
				e = u.newEndpoint(p, warm)
			}
			delete(before, p)
			index[p] = len(next.members)
			next.members = append(next.members, member{e: e, weight: weight, zone: s.zone, priority: s.priority})
		}
	}
	u.built = u.built || len(next.members) > 0
	u.replace(next)
	for _, e := range before {
		e.retire()
	}
	if len(next.members) > 0 {
		select {
		case <-u.found:
		default:
			close(u.found)
		}
	}
}

// refresh makes the set anew because the health of an endpoint changed.
func (u *Upstream) refresh() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.refreshLocked()
}

// refreshLocked is refresh for who holds u.mu.
func (u *Upstream) refreshLocked() {
	// Hundreds of endpoints that fall ill together are looked at together.
	if wait := time.Duration(u.rebuilt - health.Now() + health.Clock(refreshInterval)); wait > 0 && len(u.live.Load().members) > manyMembers {
		u.again(wait)
		return
	}
	u.replace(&set{members: slices.Clone(u.live.Load().members)})
}

const (
	manyMembers     = 100
	refreshInterval = 100 * time.Millisecond
)

// replace puts a set with these members in place. The caller holds u.mu.
func (u *Upstream) replace(next *set) {
	old := u.live.Load()
	u.fill(next)
	if u.sticky != nil {
		next.tokens = make(map[token]int, len(next.members))
		for i := range next.members {
			next.tokens[next.members[i].e.token] = i
		}
	}
	u.live.Store(next)
	u.rebuilt = health.Now()
	if next.panics != old.panics {
		u.log.Warn("the share of healthy endpoints crossed the panic threshold",
			"upstream", u.name, "ignoring_health", next.panics)
	}
	u.limit(next)
	u.again(u.nextChange(next))
}

// nextChange is how long it takes until the set changes by itself: an ejection
// or a time of rest ends, or an endpoint warms up. 0 means never.
func (u *Upstream) nextChange(s *set) time.Duration {
	next := time.Duration(math.MaxInt64)
	now := health.Now()
	for i := range s.members {
		m := &s.members[i]
		st := m.e.record.health.Status(now)
		if st.Until > 0 {
			next = min(next, st.Until)
		}
		if m.spared {
			next = min(next, max(m.e.record.health.RestLeft(now), time.Millisecond))
		}
		if m.warmth < 1 && st.Usable {
			next = min(next, max(u.slowStart/20, 50*time.Millisecond))
		}
	}
	if next == math.MaxInt64 {
		return 0
	}
	return next
}

// again has the set made anew after a while. The caller holds u.mu.
func (u *Upstream) again(after time.Duration) {
	switch {
	case u.retired:
	case after <= 0:
		if u.refresher != nil {
			u.refresher.Stop()
		}
	case u.refresher == nil:
		u.refresher = time.AfterFunc(after, u.refresh)
	default:
		u.refresher.Reset(after)
	}
}

// lowerMedian returns the middle one of some times, the lower one of two.
func lowerMedian(of []time.Duration) time.Duration {
	slices.Sort(of)
	return of[(len(of)-1)/2]
}
