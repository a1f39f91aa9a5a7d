package router

import (
	"math"
	"strings"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// tree holds the routes of one host pattern. Exact paths are found by one
// look-up; patterns by walking a tree of segments; regular expressions are
// tried one after the other when nothing else matched, which is also their
// place in the order. Every list of routes is in order of rank.
type tree struct {
	exact map[string][]*route
	root  *node
	regex []*route
}

// node is reached by the segments of one or more patterns.
type node struct {
	min   int32 // lowest rank at or below this node
	few   []edge
	many  map[string]*node // instead of few, once there are more
	param *node            // for a segment that is a parameter
	ends  []*route         // patterns that end here
	tails []*route         // patterns that end here and take what follows
}

type edge struct {
	literal string
	node    *node
}

// fewEdges is up to how many literals are compared one by one: about where
// hashing a segment begins to be cheaper.
const fewEdges = 4

// insert adds a route. Routes come in order of rank.
func (t *tree) insert(r *route) {
	if path, ok := r.pattern.exact(); ok {
		if t.exact == nil {
			t.exact = make(map[string][]*route)
		}
		t.exact[path] = append(t.exact[path], r)
		return
	}
	if r.pattern.regex != nil {
		t.regex = append(t.regex, r)
		return
	}
	if t.root == nil {
		t.root = &node{min: r.rank}
	}
	n := t.root
	for i := range r.pattern.segments {
		n = n.grow(&r.pattern.segments[i], r.rank)
	}
	if r.pattern.tail {
		n.tails = append(n.tails, r)
	} else {
		n.ends = append(n.ends, r)
	}
}

// grow returns the node below n for a segment, and makes it when it is new: a
// later route cannot lower its min.
func (n *node) grow(s *segment, rank int32) *node {
	if s.param != "" {
		if n.param == nil {
			n.param = &node{min: rank}
		}
		return n.param
	}
	if next := n.child(s.literal); next != nil {
		return next
	}
	next := &node{min: rank}
	switch {
	case n.many != nil:
		n.many[s.literal] = next
	case len(n.few) < fewEdges:
		n.few = append(n.few, edge{s.literal, next})
	default:
		n.many = map[string]*node{s.literal: next}
		for _, e := range n.few {
			n.many[e.literal] = e.node
		}
		n.few = nil
	}
	return next
}

func (n *node) child(segment string) *node {
	if n.many != nil {
		return n.many[segment]
	}
	for i := range n.few {
		if n.few[i].literal == segment {
			return n.few[i].node
		}
	}
	return nil
}

// search looks for the route of lowest rank that takes a request. It lives on
// the stack of Match.
type search struct {
	x     *exchange.Exchange
	path  string
	best  *route
	limit int32 // rank of best: nothing at or above it is of interest

	methodFailed bool     // a route was passed over for its method
	collect      bool     // do not look for a route but for the methods that would do
	allow        []string // what was collected, with repetitions
}

// in searches one tree and reports whether it found a route.
func (s *search) in(t *tree) bool {
	s.limit = math.MaxInt32
	if s.try(t.exact[s.path]) {
		return true
	}
	if t.root != nil {
		s.walk(t.root, 1)
	}
	if s.best != nil {
		return true
	}
	for _, r := range t.regex {
		if r.pattern.regex.MatchString(s.path) && s.take(r) {
			return true
		}
	}
	return false
}

// walk visits the nodes below n that the path can reach; its next segment
// begins at s.path[at], and there is none left when at is beyond the end. A
// node has one way to it, so each is visited at most once: the work is bounded
// by the number of patterns, whatever the path, and most of it is cut off by
// rank.
func (s *search) walk(n *node, at int) {
	if n.min >= s.limit {
		return
	}
	if at > len(s.path) {
		s.try(n.ends)
		s.try(n.tails)
		return
	}
	end := strings.IndexByte(s.path[at:], '/')
	if end < 0 {
		end = len(s.path)
	} else {
		end += at
	}
	if next := n.child(s.path[at:end]); next != nil {
		s.walk(next, end+1)
	}
	if n.param != nil && end > at {
		s.walk(n.param, end+1)
	}
	s.try(n.tails)
}

// try takes the first route of a list whose method and predicates hold.
func (s *search) try(list []*route) bool {
	for _, r := range list {
		if r.rank >= s.limit {
			return false
		}
		if s.take(r) {
			return true
		}
	}
	return false
}

// take makes r, whose host and path match, the best so far when the rest holds.
func (s *search) take(r *route) bool {
	if s.collect {
		if r.predicatesHold(s.x) {
			s.allow = append(s.allow, r.methods...)
		}
		return false
	}
	if !r.methodHolds(s.x.Request.Method) {
		s.methodFailed = true
		return false
	}
	if !r.predicatesHold(s.x) {
		return false
	}
	s.best, s.limit = r, r.rank
	return true
}
