package gateway

import (
	"fmt"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// problem tells of a request that is refused.
func (e *explainer) problem() {
	e.out.Result = refusal(e.x.Problem, e.by)
}

func refusal(p *exchange.Problem, by string) Result {
	r := Result{Kind: ResultProblem, By: by, Status: p.Status, Code: p.Code}
	if p.Cause != nil {
		r.Cause = p.Cause.Error()
	}
	return r
}

// answered tells of an answer that the gateway makes itself.
func (e *explainer) answered() {
	r := &e.x.Response
	e.out.Result = Result{Kind: ResultAnswer, By: e.by, Status: r.Status, Location: r.Header.Known(exchange.Location)}
}

// end tells what the end of a plan would do.
func (e *explainer) end(p *plan) {
	switch end := p.end.(type) {
	case *upstreamEnd:
		e.goesOn(-1)
	case *splitEnd:
		part := -1
		if end.by != nil && end.by(e.x) != "" {
			part = end.pick(e.x)
		}
		e.goesOn(part)
	default: // it needs nobody
		p.end.serve(e.x)
		if e.x.Problem != nil {
			e.problem()
			return
		}
		e.answered()
	}
}

// goesOn tells which upstreams a request may go to: of a split all, or the part
// that the caller falls to.
func (e *explainer) goesOn(part int) {
	r := e.cfg.Routes[e.x.Route.Index]
	out := Result{Kind: ResultUpstream, Host: e.x.Request.Authority, Path: e.x.Request.Path}
	switch {
	case len(r.Split) == 0:
		out.Upstreams = []Target{e.target(r.Upstream, 0)}
	case part >= 0:
		out.Upstreams = []Target{e.target(r.Split[part].Upstream, r.Split[part].Weight)}
	default:
		for _, s := range r.Split {
			if s.Weight > 0 {
				out.Upstreams = append(out.Upstreams, e.target(s.Upstream, s.Weight))
			}
		}
	}
	if r.Mirror != nil {
		out.Mirror = fmt.Sprintf("%s, %g%%", r.Mirror.Upstream, 100*float64(r.Mirror.Sample))
	}
	e.out.Result = out
}

func (e *explainer) target(name string, weight int) Target {
	u := e.cfg.Upstream(name)
	t := Target{Name: name, Weight: weight, Failover: u.Failover}
	for _, one := range u.Endpoints {
		t.Endpoints = append(t.Endpoints, one.URL)
	}
	t.Discovered = u.Discovery != nil
	return t
}
