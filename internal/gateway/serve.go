// Package gateway turns a configuration into an immutable snapshot and serves
// exchanges from it. It is the only place where the control half, which speaks
// config.Config, meets the data half, which speaks exchange.Exchange. It knows
// no protocol, no socket and no concrete policy.
package gateway

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/observe"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Upstream is what the gateway needs of a service behind it.
type Upstream interface {
	// Serve asks the service and fills in x.Response, or fails x.
	Serve(x *exchange.Exchange)
	// ServeOr is Serve, and calls next for what the service cannot serve at
	// present and of which nothing was sent.
	ServeOr(x *exchange.Exchange, next func(*exchange.Exchange))
	// Mirror sends a copy of the request and does not wait for its answer. It
	// returns false when x has failed meanwhile. conceal, which may be nil, takes
	// out of the copy what must not travel with it.
	Mirror(x *exchange.Exchange, conceal func(*exchange.Exchange)) bool
	// Retire says that no further snapshot uses the upstream. Exchanges that
	// already hold an older snapshot may still call Serve.
	Retire()
}

// Deps is what a gateway is built from.
type Deps struct {
	Log      *slog.Logger
	Metrics  *observe.Metrics
	Upstream func(name string, cfg *config.Upstream) (Upstream, error)
	Service  func(name string) any // what policies may ask for by name; may be nil
	Still    bool                  // snapshots are only looked at: nothing is begun that asks others
	// Challenge answers an ACME authority's question about a host; may be nil.
	Challenge func(host, path string) (answer string, ok bool)
}

// Gateway serves exchanges from its current snapshot.
type Gateway struct {
	deps Deps
	keep keeper
	live atomic.Pointer[Snapshot]
}

// New returns a gateway that answers every request with 503 until the first
// configuration is applied.
func New(deps Deps) *Gateway {
	g := &Gateway{deps: deps}
	g.live.Store(&Snapshot{unmatched: []*plan{{
		route: "none",
		meter: deps.Metrics.Route("none"),
		end:   failEnd{&notConfigured},
	}}})
	return g
}

// Snapshot returns what requests are served from at present.
func (g *Gateway) Snapshot() *Snapshot { return g.live.Load() }

// Close retires everything that lives for the sake of the configuration. The
// listeners have ended before: what is served still is served without pools.
func (g *Gateway) Close() { g.keep.close() }

// Serve answers one exchange. This is the life of a request: find its plan,
// run the request steps until one stops it, do the route's end, run the
// response steps reversed, write, and report.
func (g *Gateway) Serve(x *exchange.Exchange) {
	p := g.find(x)
	p.meter.Begin(x.Client.Shard)
	limit, reached := keepDeadline(x), 0
	if x.Problem == nil {
		reached = g.ask(p, x)
	}
	expired(x)
	g.answer(p, x, reached)
	limit.stop()
	x.Times.End = exchange.Now()
	g.report(p, x, reached)
	p.meter.End(x)
}

// Refused reports an exchange that a protocol refused before it could be
// served, so that malformed requests are logged and counted like others.
func (g *Gateway) Refused(x *exchange.Exchange) {
	p := g.live.Load().plans(x, nil)
	p.meter.Begin(x.Client.Shard)
	if x.Times.End == 0 {
		x.Times.End = exchange.Now()
	}
	g.report(p, x, 0)
	p.meter.End(x)
}

// find returns the exchange's plan, from the snapshot that it keeps to its end.
func (g *Gateway) find(x *exchange.Exchange) (p *plan) {
	s := g.live.Load()
	p = s.unmatched[0]
	defer g.contain(x)
	return s.find(x)
}

// ask runs the request steps and the route's end. It returns how many steps
// the request reached.
func (g *Gateway) ask(p *plan, x *exchange.Exchange) (reached int) {
	defer g.contain(x)
	for i := range p.steps {
		s := &p.steps[i]
		reached = i + 1
		if s.skips(x) {
			continue
		}
		if s.holdRequest > 0 && !holdRequest(x, s.holdRequest) {
			return reached
		}
		if s.request != nil && s.request.Request(x) == policy.Stop {
			return reached
		}
	}
	if p.tapsRequest {
		g.tapRequest(p, x)
	}
	p.end.serve(x)
	return reached
}

// answer runs the response steps of the policies that were reached, in reverse
// order, and writes the answer. Where a step makes it a problem, the steps
// that are left run on the problem's answer.
func (g *Gateway) answer(p *plan, x *exchange.Exchange, reached int) {
	defer g.closeBody(x)
	if x.Problem == nil && x.Response.Status == 0 {
		x.Fail(&noAnswer)
	}
	for left, done := reached, x.Problem == nil; ; {
		if !done && !g.replace(x) {
			return
		}
		if left, done = g.respond(p, x, left); done {
			break
		}
	}
	if p.tapsResponse && x.Response.Status != 101 {
		x.Response.Body = &tapped{Body: x.Response.Body, g: g, x: x, steps: p.steps[:reached], answer: true}
	}
	g.send(x)
}

// respond runs the response steps below left. It reports false, and which
// steps are left, when the answer has to be replaced by that of a problem.
func (g *Gateway) respond(p *plan, x *exchange.Exchange, steps int) (left int, done bool) {
	left = steps
	defer g.contain(x)
	cleanResponse(&x.Response)
	for left > 0 {
		left--
		s := &p.steps[left]
		if s.skips(x) {
			continue
		}
		if s.holdResponse > 0 && !g.holdResponse(x, s.holdResponse) {
			return left, false
		}
		if s.response == nil {
			continue
		}
		before := x.Problem
		if s.response.Response(x); x.Problem != before {
			return left, false
		}
	}
	return 0, true
}

// replace gives the exchange the answer of its problem. It reports false when
// there is nobody to answer.
func (g *Gateway) replace(x *exchange.Exchange) bool {
	g.closeBody(x)
	if x.Problem.Status == exchange.StatusClientGone {
		x.Response.Reset()
		x.Response.Status = exchange.StatusClientGone
		x.Down.Abort()
		return false
	}
	x.Render()
	return true
}

// report runs the done steps: those of the policies that the request reached,
// and those of stage Report in any case. One that fails keeps no other from
// its turn.
func (g *Gateway) report(p *plan, x *exchange.Exchange, reached int) {
	for next := 0; next < len(p.steps); {
		next = g.reportFrom(p, x, reached, next)
	}
}

func (g *Gateway) reportFrom(p *plan, x *exchange.Exchange, reached, from int) (next int) {
	defer g.contain(x)
	for next = from; next < len(p.steps); {
		s := &p.steps[next]
		next++
		if s.done != nil && (next <= reached || s.always) && !s.skips(x) {
			s.done.Done(x)
		}
	}
	return next
}

// contain turns a panic into a problem of this one exchange.
func (g *Gateway) contain(x *exchange.Exchange) {
	v := recover()
	if v == nil {
		return
	}
	problem := g.panicked(x, v)
	if x.Times.End != 0 {
		return // the answer had been sent when a done step failed
	}
	x.Problem = problem
	if x.Response.HeadSent {
		x.Response.Truncated = true
		x.Down.Abort()
	}
}

// panicked logs a panic and returns the problem that it is to the client.
func (g *Gateway) panicked(x *exchange.Exchange, v any) *exchange.Problem {
	g.deps.Log.Error("a request caused a panic", "request_id", x.RequestID(), "route", x.Route.Name,
		"panic", fmt.Sprint(v), "stack", string(debug.Stack()))
	return internalError.With(fmt.Errorf("panic: %v", v))
}

// send writes the answer to the client.
func (g *Gateway) send(x *exchange.Exchange) {
	defer g.contain(x)
	r := &x.Response
	if t, ok := r.Body.(exchange.Tunnel); ok && r.Status == 101 {
		tunnel(x, t)
		return
	}
	if x.Client.AltSvc != "" {
		r.Header.SetKnown(exchange.AltSvc, x.Client.AltSvc)
	}
	if err := x.Down.WriteHead(x); err != nil {
		gone(x, err)
		return
	}
	r.HeadSent = true
	readErr, writeErr := x.Down.WriteFrom(x)
	switch {
	case writeErr != nil:
		gone(x, writeErr)
	case readErr != nil:
		g.broke(x, readErr)
	default:
		if err := x.Down.Finish(x); err != nil {
			gone(x, err)
		}
	}
}

// broke ends an answer whose body broke off. A client of gRPC is told why by
// the trailer; any other can tell only by its connection or stream ending
// before the framing says so.
func (g *Gateway) broke(x *exchange.Exchange, err error) {
	x.Response.Truncated = true
	x.Fail(cut(x, err))
	expired(x)
	if !x.EndGRPC() {
		x.Down.Abort()
	} else if err := x.Down.Finish(x); err != nil {
		gone(x, err)
	}
}

func tunnel(x *exchange.Exchange, t exchange.Tunnel) {
	stream, err := x.Down.Upgrade(x)
	if err != nil {
		gone(x, err)
		return
	}
	x.Response.HeadSent = true
	if err := t.Join(x, stream); err != nil {
		x.Response.Truncated = true
	}
}

// gone records that the answer could not be written. An engine that closed the
// connection for a reason of its own says so by a problem.
func gone(x *exchange.Exchange, err error) {
	x.Response.Truncated = true
	x.Down.Abort()
	var own *exchange.Problem
	if !errors.As(err, &own) {
		own = clientGone.With(err)
	}
	x.Fail(own)
}

// closeBody ends the use of the answer's body, and so gives its connection
// back. It runs once for each body.
func (g *Gateway) closeBody(x *exchange.Exchange) {
	defer g.contain(x)
	b := x.Response.Body
	x.Response.Body = exchange.NoBody
	// The error of closing says nothing that reading did not: a body that
	// broke has been reported, one that was given up is of no interest.
	_ = b.Close()
}
