package gateway

import (
	"encoding/json"
	"fmt"
	"strings"

	"gatehouse.dev/gatehouse/internal/config"
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

// settings returns what a policy is set to, without what may be a credential.
func settings(p *config.Policy) map[string]any {
	var m map[string]any
	if err := json.Unmarshal(config.Settings(p), &m); err != nil {
		return nil // the canonical form is JSON
	}
	conceal(m)
	return m
}

// conceal hides texts under names that may hold a credential: secrets are
// hidden already, but not what was written where none is expected, such as the
// value of a field.
func conceal(v any) {
	switch v := v.(type) {
	case map[string]any:
		for name, one := range v {
			if _, ok := one.(string); ok && confidential(name) && !strings.HasSuffix(name, "_url") && !strings.HasSuffix(name, "_file") {
				v[name] = "(hidden)"
				continue
			}
			conceal(one)
		}
	case []any:
		for _, one := range v {
			conceal(one)
		}
	}
}
