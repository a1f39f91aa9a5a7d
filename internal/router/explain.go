package router

import (
	"cmp"
	"slices"
	"strings"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// Outcome says what became of a route for one request.
type Outcome uint8

// The outcomes, from nearest to farthest.
const (
	Won           Outcome = iota
	LostOrder             // it would take the request, but another one comes first
	LostPredicate         // header, query or cookie do not hold
	LostMethod            // the method is not one of its methods
	LostPath
	LostHost
)

func (o Outcome) String() string {
	return [...]string{"won", "order", "condition", "method", "path", "host"}[o]
}

// Candidate is a route as one request meets it.
type Candidate struct {
	Name    string
	Index   int
	Outcome Outcome
	Reason  string // a sentence without a full stop
}

// Explain says of every route why it takes the request or why not, in the
// order in which Match would ask them; those of other hosts come last. It needs
// of x what Match needs. It takes time and memory by the number of routes: it
// is for people, not for traffic.
func (t *Table) Explain(x *exchange.Exchange) []Candidate {
	r := &x.Request
	type met struct {
		route *route
		level int // how far down the order of hosts the route is met
		host  host
	}
	all := make([]met, len(t.routes))
	for i, one := range t.routes {
		all[i] = met{one, hostLevels, anyHost}
		for _, h := range one.hosts {
			if level := hostLevel(h, r.Host); level < all[i].level {
				all[i].level, all[i].host = level, h
			}
		}
	}
	slices.SortStableFunc(all, func(a, b met) int { return cmp.Compare(a.level, b.level) })

	out := make([]Candidate, len(all))
	var winner *met
	for i := range all {
		m := &all[i]
		c := Candidate{Name: m.route.name, Index: m.route.index}
		if m.level == hostLevels {
			c.Outcome, c.Reason = LostHost, "host "+quote(r.Host)+" is not "+m.route.hostList()
		} else {
			c.Outcome, c.Reason = m.route.explain(x)
		}
		switch {
		case c.Outcome != Won:
		case winner == nil:
			winner = m
			c.Reason = "takes it: " + m.host.String() + ", path " + m.route.pattern.text
		case winner.level != m.level:
			c.Outcome = LostOrder
			c.Reason = "route " + quote(winner.route.name) + " takes it first: " + winner.host.String() + " comes before " + m.host.String()
		default:
			_, why := order(winner.route, m.route)
			c.Outcome, c.Reason = LostOrder, "route "+quote(winner.route.name)+" takes it first: "+why
		}
		out[i] = c
	}
	return out
}

// hostLevels is above every level of a host name, which is at most 255 long.
const hostLevels = 1000

// hostLevel orders the host patterns that match a name: lower is asked first.
func hostLevel(h host, name string) int {
	switch {
	case !h.match(name):
		return hostLevels
	case h == anyHost:
		return hostLevels - 1
	case h.wildcard():
		return len(name) - len(h)
	}
	return 0
}

func (r *route) hostList() string {
	names := make([]string, len(r.hosts))
	for i, h := range r.hosts {
		names[i] = h.String()
	}
	return strings.Join(names, " or ")
}

// explain answers Won when path, method and predicates of the route hold.
func (r *route) explain(x *exchange.Exchange) (Outcome, string) {
	q := &x.Request
	if !r.pattern.match(q.Path, nil) {
		return LostPath, "path " + quote(q.Path) + " does not match " + r.pattern.text
	}
	if !r.methodHolds(q.Method) {
		return LostMethod, "method " + q.Method + " is not " + strings.Join(r.methods, " or ")
	}
	for _, p := range r.predicates {
		if !p.holds(x) {
			return LostPredicate, "it does not hold that " + p.String()
		}
	}
	return Won, ""
}
