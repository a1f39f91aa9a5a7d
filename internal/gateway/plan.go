package gateway

import (
	"slices"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/observe"
	"gatehouse.dev/gatehouse/internal/policy"
	"gatehouse.dev/gatehouse/internal/router"
)

// plan is all that happens to the requests of one route on one listener: the
// policies of gateway, listener and route in one flat list, and the end.
type plan struct {
	route        string
	steps        []step
	end          end
	meter        *observe.Route
	slots        *policy.Slots // of the snapshot
	tapsRequest  bool          // some step has tapRequest
	tapsResponse bool
	preflights   bool // some step answers preflights
}

// step is one policy of a plan, with its phases looked up beforehand. Phases
// that the policy does not have are nil.
type step struct {
	origin       *origin
	when         *condition // nil: for every request
	request      policy.OnRequest
	response     policy.OnResponse
	done         policy.OnDone
	tapRequest   policy.TapsRequest
	tapResponse  policy.TapsResponse
	always       bool // the done step runs whether or not the request got here
	holdRequest  int64
	holdResponse int64
}

// origin is what nobody needs to serve a request, and who wants to know why it
// is served as it is. It is shared by all plans that the policy is part of.
type origin struct {
	kind   string
	owner  string // "gateway", or "listener", "group" or "route" with a name
	path   string // where the policy stands in the configuration
	stage  policy.Stage
	policy policy.Policy
	use    *config.Policy // nil for what is no policy
}

// rewriting is the origin of the step that changes the target.
var rewriting = origin{kind: "rewrite", owner: "route", stage: policy.Transform}

// condition says for whose requests a step runs. It looks at who asks, which
// stays as it is once stage identify is over.
type condition struct {
	only   string   // consumers of this group, "" for everybody
	unless []string // but not of these, which have a policy of the same kind
}

// skips tells whether a step is none of this exchange's.
func (s *step) skips(x *exchange.Exchange) bool { return s.when != nil && !s.when.holds(x.Who.Groups) }

func (c *condition) holds(groups []string) bool {
	if c.only != "" && !slices.Contains(groups, c.only) {
		return false
	}
	for _, g := range c.unless {
		if slices.Contains(groups, g) {
			return false
		}
	}
	return true
}

// add puts a compiled policy at the end of the plan.
func (p *plan) add(c compiled) {
	v := c.policy
	s := step{origin: c.origin, always: c.stage == policy.Report}
	if c.only != "" || c.unless != nil {
		s.when = &condition{c.only, c.unless}
	}
	s.request, _ = v.(policy.OnRequest)
	s.response, _ = v.(policy.OnResponse)
	s.done, _ = v.(policy.OnDone)
	if h, ok := v.(policy.Holds); ok {
		s.holdRequest, s.holdResponse = h.HoldRequest(), h.HoldResponse()
	}
	s.tapRequest, _ = v.(policy.TapsRequest)
	s.tapResponse, _ = v.(policy.TapsResponse)
	if _, ok := v.(policy.Preflights); ok {
		p.preflights = true
	}
	p.tapsRequest = p.tapsRequest || s.tapRequest != nil
	p.tapsResponse = p.tapsResponse || s.tapResponse != nil
	p.steps = append(p.steps, s)
}

// Snapshot is everything that a request can see. It is built once and never
// written again.
type Snapshot struct {
	Digest   string // of the configuration it was compiled from
	Routes   int    // how many routes it has
	Warnings int

	// Upstreams are those that it uses, by name or URL.
	Upstreams map[string]Upstream

	table     *router.Table
	variants  map[string]int      // listener name to the index of its plans; others use 0
	routed    [][]*plan           // by variant, then by route
	unmatched []*plan             // by variant: for requests that no route takes
	passing   map[string]*passing // by name: listeners that open nothing
	plainly   *plainly
}

// find cleans the request, matches it and returns its plan. A request that
// matches nothing, or that cannot be matched, gets its variant's plan for
// that and a problem.
func (s *Snapshot) find(x *exchange.Exchange) *plan {
	r := &x.Request
	if s.table == nil {
		return s.plans(x, nil)
	}
	cleanRequest(x)
	if r.Asterisk {
		return s.plans(x, &asterisk)
	}
	path, err := router.Normalize(r.RawPath)
	if err != nil {
		return s.plans(x, failEnd{badPath.With(err)})
	}
	r.Path = path
	if p := s.plainly.plan(x); p != nil {
		x.Route.Name, x.Route.Index = p.route, -1
		return p
	}
	if r.Method == "OPTIONS" {
		if p := s.preflight(x); p != nil {
			return p
		}
	}
	switch m := s.table.Match(x); m.Kind {
	case router.Found:
		return s.routed[s.variant(x)][x.Route.Index]
	case router.NoMethod:
		return s.plans(x, failEnd{methodNotAllowed(m.Allow)})
	default:
		return s.plans(x, nil)
	}
}

// preflight returns the plan of the request that a preflight asks leave for
// (Fetch, section 4.8), where that plan answers preflights. A route that lists
// its methods need not list OPTIONS for that, and no looser route takes it.
func (s *Snapshot) preflight(x *exchange.Exchange) *plan {
	r := &x.Request
	method, ok := r.Header.Lookup("Access-Control-Request-Method")
	if !ok || !r.Header.Has(exchange.Origin) {
		return nil
	}
	r.Method = method
	m := s.table.Match(x)
	r.Method = "OPTIONS"
	if m.Kind != router.Found {
		return nil
	}
	if p := s.routed[s.variant(x)][x.Route.Index]; p.preflights {
		return p
	}
	return nil
}

func (s *Snapshot) variant(x *exchange.Exchange) int {
	if s.variants == nil {
		return 0
	}
	return s.variants[x.Client.Listener]
}

// plans returns the plan of requests without a route, with an end of its own
// where e is given.
func (s *Snapshot) plans(x *exchange.Exchange, e end) *plan {
	x.Route.Name, x.Route.Index = "none", -1
	p := s.unmatched[s.variant(x)]
	if e == nil {
		return p
	}
	q := *p
	q.end = e
	return &q
}
