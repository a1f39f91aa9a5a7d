package gateway

import (
	"cmp"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
	"gatehouse.dev/gatehouse/internal/router"
	"gatehouse.dev/gatehouse/internal/share"
)

// Pending is a compiled snapshot that is not live yet. Exactly one of Commit
// and Discard must be called; until then no other compilation begins.
type Pending struct {
	g   *Gateway
	s   *Snapshot
	cfg *config.Config
}

// Commit makes the snapshot the live one. Requests in flight finish on the one
// they began with.
func (p *Pending) Commit() {
	p.g.live.Store(p.s)
	p.g.keep.commit()
}

// Discard gives the snapshot up.
func (p *Pending) Discard() { p.g.keep.discard() }

// Apply compiles a configuration and makes it live. With a fault nothing
// changes. The faults returned may be warnings only.
func (g *Gateway) Apply(cfg *config.Config) config.Faults {
	p, faults := g.Compile(cfg)
	if p != nil {
		p.Commit()
	}
	return faults
}

// Compile builds a snapshot of a configuration. It goes on after a fault and
// reports all of them; with any that is not a warning, and for a configuration
// that is partial, it returns nil.
func (g *Gateway) Compile(cfg *config.Config) (*Pending, config.Faults) {
	g.keep.begin()
	c := &compiler{
		g: g, cfg: cfg,
		slots: new(policy.Slots),
		s:     &Snapshot{Routes: len(cfg.Routes)},
	}
	c.routes()
	c.plans()
	c.passages()
	c.faults.Sort()
	if c.faults.Fatal() || cfg.Partial() {
		g.keep.discard()
		return nil, c.faults
	}
	c.s.Digest = cfg.Digest()
	c.s.Warnings = len(c.faults)
	return &Pending{g, c.s, cfg}, c.faults
}

type compiler struct {
	g         *Gateway
	cfg       *config.Config
	slots     *policy.Slots
	ends      []end
	listeners [][]compiled // policies by listener
	groups    []compiled   // policies of consumer groups, by group
	faults    config.Faults
	s         *Snapshot
}

// compiled is a policy with what decides its place in a plan.
type compiled struct {
	kind   *policy.Kind
	policy policy.Policy // nil when it did not compile
	stage  policy.Stage
	origin *origin
	rank   int // place in the catalog
	repeat bool
	only   string   // group whose consumers' requests it is for, "" for all
	unless []string // groups that have one of this kind instead
}

func (c *compiler) fault(path, text, hint string) {
	c.faults = append(c.faults, c.cfg.Fault(path, text, hint))
}

// routes builds the match table and the ends.
func (c *compiler) routes() {
	entries := make([]router.Entry, 0, len(c.cfg.Routes))
	places := make([]int, 0, len(c.cfg.Routes)) // of the entries among the routes
	for i, r := range c.cfg.Routes {
		if r != nil {
			entries = append(entries, router.Entry{Name: r.Name, Match: r.Match})
			places = append(places, i)
		}
	}
	table, clashes := router.New(entries)
	for _, clash := range clashes {
		f := c.cfg.Fault(fmt.Sprintf("routes[%d].%s", places[clash.Index], clash.Field), clash.Text, clash.Hint)
		f.Warning = clash.Warning
		c.faults = append(c.faults, f)
	}
	c.s.table = table
	c.ends = make([]end, len(c.cfg.Routes))
	for i, r := range c.cfg.Routes {
		if r != nil {
			c.ends[i] = c.end(fmt.Sprintf("routes[%d]", i), r)
		}
	}
}

// end builds what a route does. Exactly one of its ends is set: decoding saw
// to that.
func (c *compiler) end(path string, r *config.Route) end {
	params := router.Params(r.Match)
	switch {
	case r.Redirect != nil:
		t, err := router.ParseRedirect(r.Redirect.To, params)
		if err != nil {
			c.fault(path+".redirect.to", err.Error(), "")
		}
		return &redirectEnd{status: r.Redirect.Status, to: t}
	case r.Respond != nil:
		return respond(r.Respond)
	}
	w := c.rewrite(path+".rewrite", r.Rewrite, params)
	beside := c.mirror(path+".mirror.upstream", r.Mirror)
	if len(r.Split) == 0 {
		return &upstreamEnd{upstream: beside(c.upstream(path+".upstream", r.Upstream)), rewrite: w}
	}
	e := &splitEnd{rewrite: w}
	if r.SplitBy != "" {
		by, err := share.ParseKey(r.SplitBy)
		if err != nil {
			c.fault(path+".split_by", err.Error(), "")
		}
		e.by = by
	}
	names, weights := make([]string, 0, len(r.Split)), make([]int, 0, len(r.Split))
	for i, s := range r.Split {
		names, weights = append(names, s.Upstream), append(weights, s.Weight)
		e.to = append(e.to, beside(c.upstream(fmt.Sprintf("%s.split[%d].upstream", path, i), s.Upstream)))
	}
	e.table = share.NewTable(names, weights)
	return e
}

func respond(r *config.Respond) end {
	e := &respondEnd{status: r.Status, body: []byte(r.Body)}
	typed := false
	names := make([]string, 0, len(r.Headers))
	for name := range r.Headers {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		k := exchange.LookupKnown(name)
		typed = typed || k == exchange.ContentType
		e.fields = append(e.fields, exchange.Field{Name: name, Value: r.Headers[name], Known: k})
	}
	if !typed && len(e.body) > 0 {
		e.fields = append(e.fields, exchange.Field{Name: "Content-Type", Value: "text/plain; charset=utf-8", Known: exchange.ContentType})
	}
	return e
}

func (c *compiler) rewrite(path string, r *config.Rewrite, names []string) *rewrite {
	if r == nil {
		return nil
	}
	w := &rewrite{strip: r.StripPrefix, host: r.Host}
	if r.Path != "" {
		t, err := router.ParsePath(r.Path, names)
		if err != nil {
			c.fault(path+".path", err.Error(), "")
		}
		w.path = t
	}
	return w
}

// upstream returns the live upstream of a name or URL, with the one that serves
// instead where there is one. Its key holds all its settings: with the same
// settings it outlasts the reload, with its pools.
func (c *compiler) upstream(path, name string) Upstream {
	cfg := c.cfg.Upstream(name)
	if cfg == nil && c.cfg.Partial() {
		return nil // its fault is known
	}
	if cfg == nil {
		c.fault(path, fmt.Sprintf("upstream %q is not defined", name), "")
		return nil
	}
	v, err := c.g.keep.get("upstream "+name+" "+cfg.Key(), func() (any, error) {
		return c.g.deps.Upstream(name, cfg)
	})
	if err != nil {
		c.fault(path, fmt.Sprintf("upstream %q: %v", name, err), "")
		return nil
	}
	first := v.(Upstream)
	if c.s.Upstreams == nil {
		c.s.Upstreams = make(map[string]Upstream)
	}
	c.s.Upstreams[name] = first
	if cfg.Failover == "" {
		return first
	}
	// Decoding saw to it that nobody comes to serve instead of himself.
	next := c.upstream(path, cfg.Failover)
	if next == nil {
		return nil
	}
	return &failover{first, next}
}

// mirror returns what puts the upstream that gets copies beside another one.
func (c *compiler) mirror(path string, m *config.Mirror) func(Upstream) Upstream {
	if m == nil {
		return func(u Upstream) Upstream { return u }
	}
	to := c.upstream(path, m.Upstream)
	return func(u Upstream) Upstream { return &mirrored{Upstream: u, to: to, sample: float64(m.Sample)} }
}

// plans builds the plan of every route on every listener. Listeners without
// policies of their own share variant 0.
func (c *compiler) plans() {
	top := c.compileAll("policies", "gateway", c.cfg.Policies)
	c.compileGroups()
	routes := make([][]compiled, len(c.cfg.Routes))
	for i, r := range c.cfg.Routes {
		if r != nil {
			routes[i] = c.compileAll(fmt.Sprintf("routes[%d].policies", i), "route "+r.Name, r.Policies)
		}
	}
	c.variant(top, nil, routes)
	c.listeners = make([][]compiled, len(c.cfg.Listeners))
	for i, l := range c.cfg.Listeners {
		if l == nil || len(l.Policies) == 0 {
			continue
		}
		if c.s.variants == nil {
			c.s.variants = make(map[string]int)
		}
		c.s.variants[l.Name] = len(c.s.routed)
		c.listeners[i] = c.compileAll(fmt.Sprintf("listeners[%d].policies", i), "listener "+l.Name, l.Policies)
		c.variant(top, c.listeners[i], routes)
	}
	if !c.cfg.Partial() { // it has no faults of its own to find
		c.s.plainly = c.plainly(top)
	}
}

func (c *compiler) variant(top, listener []compiled, routes [][]compiled) {
	plans := make([]*plan, len(routes))
	for i, r := range c.cfg.Routes {
		if r == nil {
			continue
		}
		plans[i] = c.plan(r.Name, c.ends[i], top, listener, routes[i])
	}
	c.s.routed = append(c.s.routed, plans)
	c.s.unmatched = append(c.s.unmatched, c.plan("none", failEnd{&noRoute}, top, listener))
}

// plan merges the policies of several levels, outermost first, and puts them
// in order. Of a kind that may stand only once the innermost level wins.
func (c *compiler) plan(route string, e end, levels ...[]compiled) *plan {
	var all []compiled
	for i, level := range levels {
		for _, p := range level {
			if p.policy == nil || !p.repeat && overridden(p.kind, levels[i+1:]) {
				continue
			}
			all = append(all, p)
		}
	}
	all = append(c.unlessGroups(all), c.groups...)
	slices.SortStableFunc(all, func(a, b compiled) int {
		return cmp.Or(cmp.Compare(a.stage, b.stage), cmp.Compare(a.rank, b.rank))
	})
	var secrets []policy.Conceals
	for _, one := range all {
		if s, ok := one.policy.(policy.Conceals); ok {
			secrets = append(secrets, s)
		}
	}
	p := &plan{route: route, end: concealing(e, secrets), slots: c.slots, meter: c.g.deps.Metrics.Route(route)}
	change := rewriteOf(e)
	for _, one := range all {
		if change != nil && one.stage >= policy.Transform {
			p.steps = append(p.steps, step{origin: &rewriting, request: change})
			change = nil
		}
		p.add(one)
	}
	if change != nil {
		p.steps = append(p.steps, step{origin: &rewriting, request: change})
	}
	return p
}

func overridden(k *policy.Kind, inner [][]compiled) bool {
	for _, level := range inner {
		for _, p := range level {
			if p.kind == k {
				return true
			}
		}
	}
	return false
}

// compileAll compiles a list of policies. owner is whom they belong to.
func (c *compiler) compileAll(path, owner string, list []*config.Policy) []compiled {
	out := make([]compiled, 0, len(list))
	seen, count := make(map[*policy.Kind]int), make(map[*policy.Kind]int)
	for i, p := range list {
		if p == nil {
			continue
		}
		at := fmt.Sprintf("%s[%d].%s", path, i, p.Kind.Name)
		count[p.Kind]++
		done := c.compile(at, fmt.Sprintf("%s #%d", owner, count[p.Kind]), p)
		done.origin = &origin{kind: p.Kind.Name, owner: owner, path: at, stage: done.stage, policy: done.policy, use: p}
		if first, ok := seen[p.Kind]; !ok {
			seen[p.Kind] = i
		} else if !done.repeat {
			c.fault(at, fmt.Sprintf("%s stands twice in this list, first at %s[%d]", p.Kind.Name, path, first), "join the two, or remove one")
		}
		out = append(out, done)
	}
	return out
}

// compile compiles one policy. A panic in it is a fault of these settings like
// any other.
func (c *compiler) compile(path, owner string, p *config.Policy) (out compiled) {
	defer func() {
		if v := recover(); v != nil {
			c.g.deps.Log.Error("a policy caused a panic while it was compiled", "policy", p.Kind.Name, "path", path,
				"panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			out.policy = nil
			c.fault(path, fmt.Sprintf("compiling %s failed by an error of the gateway", p.Kind.Name), "please report it")
		}
	}()
	out = compiled{kind: p.Kind, stage: p.Kind.Stage, rank: p.Rank}
	if s, ok := p.Config.(policy.Staged); ok {
		out.stage = s.Stage()
	}
	_, out.repeat = p.Config.(policy.Repeatable)
	keep := func(kind, key string, create func() any) any {
		v, _ := c.g.keep.get("policy "+kind+" "+key, func() (any, error) { return create(), nil })
		return v
	}
	env := &policy.Env{
		Name: p.Kind.Name, Path: path, At: owner, Slots: c.slots,
		Log:     c.g.deps.Log.With("policy", p.Kind.Name),
		Keep:    func(key string, create func() any) any { return keep(p.Kind.Name, key, create) },
		KeepAs:  keep,
		Service: c.g.deps.Service,
		Spared:  c.g.deps.Metrics.Spared(p.Kind.Name),
		Still:   c.g.deps.Still,
	}
	if env.Service == nil {
		env.Service = func(string) any { return nil }
	}
	v, err := p.Config.Compile(env)
	c.policyFaults(path, err)
	if err == nil {
		out.policy = v
	}
	return out
}

// policyFaults turns what Compile returned into faults with positions.
func (c *compiler) policyFaults(path string, err error) {
	if err == nil {
		return
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			c.policyFaults(path, e)
		}
		return
	}
	var f *policy.Fault
	if !errors.As(err, &f) {
		c.fault(path, err.Error(), "")
		return
	}
	if f.Field != "" {
		path += "." + f.Field
	}
	c.fault(path, f.Text, f.Hint)
}
