package gateway

import (
	"math/rand/v2"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
	"gatehouse.dev/gatehouse/internal/router"
	"gatehouse.dev/gatehouse/internal/share"
)

// end is what a route does with a request that its policies let through: it
// fills in the response or fails the exchange.
type end interface{ serve(x *exchange.Exchange) }

// failEnd answers with a problem.
type failEnd struct{ problem *exchange.Problem }

func (e failEnd) serve(x *exchange.Exchange) { x.Fail(e.problem) }

// asterisk answers OPTIONS *, which asks about the server as a whole (RFC
// 9110, section 9.3.7).
var asterisk = respondEnd{status: 204, fields: []exchange.Field{
	{Name: "Allow", Value: "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS", Known: exchange.Allow},
}}

// respondEnd answers with a fixed response.
type respondEnd struct {
	status int
	fields []exchange.Field
	body   []byte
}

func (e *respondEnd) serve(x *exchange.Exchange) {
	r := &x.Response
	r.Status = e.status
	for _, f := range e.fields {
		r.Header.Append(f)
	}
	r.SetBody(e.body)
}

// redirectEnd answers with a redirection.
type redirectEnd struct {
	status int
	to     *router.Template
}

func (e *redirectEnd) serve(x *exchange.Exchange) {
	r := &x.Response
	r.Status = e.status
	r.Header.AddKnown(exchange.Location, string(e.to.Append(nil, &x.Request, &x.Route, x.Request.Path)))
	r.SetBody(nil)
}

// upstreamEnd asks an upstream.
type upstreamEnd struct {
	upstream Upstream
	rewrite  *rewrite // a step of the plan; nil: the request goes on as it is
}

func (e *upstreamEnd) serve(x *exchange.Exchange) {
	e.upstream.Serve(x)
}

// failover is an upstream with another that serves what it cannot.
type failover struct {
	Upstream
	next Upstream
}

// Serve implements Upstream.
func (f *failover) Serve(x *exchange.Exchange) { f.ServeOr(x, f.next.Serve) }

// ServeOr implements Upstream.
func (f *failover) ServeOr(x *exchange.Exchange, next func(*exchange.Exchange)) {
	f.Upstream.ServeOr(x, func(x *exchange.Exchange) { f.next.ServeOr(x, next) })
}

// mirrored is an upstream beside which another one gets copies.
type mirrored struct {
	Upstream
	to     Upstream
	sample float64 // share of the requests

	secrets []policy.Conceals // policies of the plan
}

// conceal takes the credentials of the plan's policies out of a copy.
func (m *mirrored) conceal(x *exchange.Exchange) {
	for _, s := range m.secrets {
		s.Conceal(x)
	}
}

// Serve implements Upstream.
func (m *mirrored) Serve(x *exchange.Exchange) {
	if m.sample < 1 && rand.Float64() >= m.sample || m.to.Mirror(x, m.conceal) {
		m.Upstream.Serve(x)
	}
}

// concealing returns an end whose mirrors do not get the credentials of some
// policies. An end is shared by plans of several listeners, which differ in it.
func concealing(e end, secrets []policy.Conceals) end {
	wrap := func(u Upstream) Upstream {
		if m, ok := u.(*mirrored); ok {
			n := *m
			n.secrets = secrets
			return &n
		}
		return u
	}
	switch e := e.(type) {
	case *upstreamEnd:
		return &upstreamEnd{wrap(e.upstream), e.rewrite}
	case *splitEnd:
		n := *e
		n.to = make([]Upstream, len(e.to))
		for i, u := range e.to {
			n.to[i] = wrap(u)
		}
		return &n
	}
	return e
}

// splitEnd shares the requests among several upstreams.
type splitEnd struct {
	rewrite *rewrite  // as of upstreamEnd
	by      share.Key // nil: every request is dealt anew
	table   *share.Table
	to      []Upstream
}

func (e *splitEnd) serve(x *exchange.Exchange) { e.to[e.pick(x)].Serve(x) }

// pick returns the share that a request falls to. One without what callers are
// told apart by is its client's.
func (e *splitEnd) pick(x *exchange.Exchange) int {
	if e.by == nil {
		return e.table.Any()
	}
	if key := e.by(x); key != "" {
		return e.table.Pick(key)
	}
	if x.Client.IP != "" {
		return e.table.Pick("\x00" + x.Client.IP) // no value that was sent
	}
	return e.table.Any()
}

// rewriteOf returns what an end has done to the target, nil for nothing.
func rewriteOf(e end) *rewrite {
	switch e := e.(type) {
	case *upstreamEnd:
		return e.rewrite
	case *splitEnd:
		return e.rewrite
	}
	return nil
}

// rewrite changes the target before the request goes on. It is a step of the
// plan, and stands before stage transform: policies decide by what the client
// asked for, but what they make of the request, such as a signature over it, is
// made of what is sent.
type rewrite struct {
	strip string
	path  *router.Template // nil: only strip
	host  string
}

// Request stops the exchange when the path that would be sent is not a valid
// one.
func (w *rewrite) Request(x *exchange.Exchange) policy.Verdict {
	r := &x.Request
	path := r.Path
	if w.strip != "" {
		path = router.StripPrefix(path, w.strip)
	}
	if w.path != nil {
		path = string(w.path.Append(nil, r, &x.Route, path))
	}
	normal, err := router.Normalize(path)
	if err != nil {
		x.Fail(badPath.With(err))
		return policy.Stop
	}
	r.Path = normal
	if w.host != "" {
		r.Authority = w.host
	}
	return policy.Next
}
