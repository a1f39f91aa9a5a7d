package upstream

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/h1"
	"gatehouse.dev/gatehouse/internal/upstream/balance"
	"gatehouse.dev/gatehouse/internal/upstream/health"
	"gatehouse.dev/gatehouse/internal/wire"
)

// hedging says when a request is sent a second time while the first waits.
type hedging struct {
	after  time.Duration // 0: the percentile
	share  float64       // of the answers that came until then
	budget health.Budget
}

func newHedging(c *config.Hedge) (*hedging, error) {
	if c == nil {
		return nil, nil
	}
	h := &hedging{budget: health.Budget{Share: float64(c.Budget)}}
	if digits, ok := strings.CutPrefix(c.After, "p"); ok {
		n, err := strconv.Atoi(digits)
		if err != nil || n < 1 || n > 99 {
			return nil, errors.New("hedge after " + strconv.Quote(c.After) + " is not known")
		}
		h.share = float64(n) / 100
		return h, nil
	}
	var d config.Duration
	if err := d.UnmarshalText([]byte(c.After)); err != nil {
		return nil, err
	}
	h.after = d.D()
	return h, nil
}

var (
	errHedgeWon  = errors.New("the second attempt was answered first")
	errHedgeLost = errors.New("the first attempt was answered first")
)

// hedgeable reports whether the request may be sent twice at the same time.
func (c *call) hedgeable() bool {
	r := &c.x.Request
	return r.Length == 0 && r.Upgrade == "" && idempotent(r.Method)
}

// race is one request that may be under way twice: the first attempt on the
// exchange's own goroutine, the second one on another goroutine with an
// exchange of its own, so that the two share nothing but this.
type race struct {
	u      *Upstream
	s      *set
	limits *h1.ResponseLimits
	first  *endpoint
	key    uint64

	mu        sync.Mutex
	x         *exchange.Exchange // nil once the first attempt has ended
	authority string             // x's, which sending it may change for a moment
	y         *exchange.Exchange // the second attempt's, nil while there is none
	use       *use
	over      bool          // who won is known
	won       bool          // it is the second one
	done      chan struct{} // closed when the second one has ended; nil while there is none
}

// hedged asks an endpoint, and after a while another one as well. The first
// answer wins; the other attempt is cancelled.
func (c *call) hedged(e *endpoint, s *set, limits *h1.ResponseLimits) (*use, *failure) {
	u, x := c.u, c.x
	after := u.hedge.after
	if after == 0 {
		after = u.service.times.At(health.Now(), u.hedge.share)
	}
	if after <= 0 || len(s.members) < 2 {
		return e.serve(x, limits)
	}
	r := &race{u: u, s: s, limits: limits, first: e, key: c.key, x: x, authority: x.Request.Authority}
	t := time.AfterFunc(after, r.second)
	cn, f := e.serve(x, limits)
	t.Stop()

	r.mu.Lock()
	r.x = nil // the second attempt must not look at it any more
	if f == nil && !r.won {
		r.over = true
		if r.y != nil {
			r.y.Cancel(errHedgeLost)
		}
		r.mu.Unlock()
		return cn, nil
	}
	done, y := r.done, r.y
	r.mu.Unlock()
	x.Rejoin()
	if done == nil {
		return cn, f
	}
	if f != nil && y != nil && x.Canceled() == nil && f.why != final { // all depends on the second
		if err := x.Bind(both{y}); err == nil {
			<-done
		}
		_ = x.Bind(nil) // who was cancelled meanwhile is told below
	}
	r.mu.Lock()
	won := r.won
	if r.over = true; !won && r.y != nil {
		r.y.Cancel(errHedgeLost)
	}
	r.mu.Unlock()
	if !won {
		return cn, f
	}
	<-done
	if f == nil {
		// It was answered in the same moment, and interrupted too late.
		_ = x.Response.Body.Close()
		x.Response.Reset()
	}
	return adopt(x, y, r.use), nil
}

// second is the second attempt. It runs on a goroutine of its own.
func (r *race) second() {
	r.mu.Lock()
	if r.x == nil || r.over || !r.u.hedge.budget.Take(health.Now()) {
		r.mu.Unlock()
		return
	}
	e := r.s.pick(r.key, r.u.key != nil, []*balance.Load{&r.first.record.load})
	if e == nil || e == r.first {
		r.mu.Unlock()
		return
	}
	y := copyOf(r.x, r.authority)
	r.y, r.done = y, make(chan struct{})
	defer close(r.done)
	r.mu.Unlock()
	r.u.meter.Event(Hedged)
	y.Upstream.Name, y.Upstream.Endpoint = r.u.name, e.address
	cn, f := e.guarded(y, r.limits)

	r.mu.Lock()
	defer r.mu.Unlock()
	if f == nil && !r.over {
		r.over, r.won, r.use = true, true, cn
		if r.x != nil {
			r.x.Divert(errHedgeWon)
		}
		return
	}
	if f == nil {
		_ = y.Response.Body.Close() // nobody wants it
	}
	r.y = nil
	if r.over {
		exchange.Put(y)
	}
}

// guarded is serve on a goroutine that has nobody else to catch a panic: it
// must harm this request only.
func (e *endpoint) guarded(y *exchange.Exchange, l *h1.ResponseLimits) (cn *use, f *failure) {
	defer func() {
		if v := recover(); v != nil {
			e.u.log.Error("a panic while a request was sent a second time", "upstream", e.u.name, "panic", v)
			cn, f = nil, &failure{problem: reset.With(fmt.Errorf("panic: %v", v))}
		}
	}()
	return e.serve(y, l)
}

// copyOf returns an exchange that asks for the same without a body, and that
// has no client to tell anything.
func copyOf(x *exchange.Exchange, authority string) *exchange.Exchange {
	y := exchange.Get()
	q, r := &y.Request, &x.Request
	q.Proto, q.Method, q.Scheme, q.Authority, q.Host = r.Proto, r.Method, r.Scheme, authority, r.Host
	q.RawPath, q.Path, q.Query, q.HasQuery, q.Asterisk = r.RawPath, r.Path, r.Query, r.HasQuery, r.Asterisk
	q.Header.CopyFrom(&r.Header)
	client := *x.Client
	y.Client = &client
	y.Down = silent{}
	return y
}

// silent is a client that is told nothing: interim answers of an attempt that
// may lose would be answers to nothing.
type silent struct{ exchange.Downstream }

func (silent) Inform(int, *exchange.Header) error { return nil }

// both lets an exchange that is cancelled cancel the one that works for it.
type both struct{ y *exchange.Exchange }

// Interrupt implements exchange.Interrupter.
func (b both) Interrupt() { b.y.Cancel(exchange.ErrClientGone) }

// adopt makes the answer of another exchange this one's.
func adopt(x, y *exchange.Exchange, cn *use) *use {
	r, a := &x.Response, &y.Response
	r.Status, r.Length, r.Close = a.Status, a.Length, a.Close
	r.Header.CopyFrom(&a.Header)
	x.Times.Sent, x.Times.FirstByte = y.Times.Sent, y.Times.FirstByte
	x.Upstream.Attempts += y.Upstream.Attempts
	x.Upstream.Endpoint, x.Upstream.Reused = y.Upstream.Endpoint, y.Upstream.Reused
	x.Problem = nil
	b := &adopted{x: x, y: y}
	r.Body = b
	if err := x.Bind(both{y}); err != nil {
		y.Cancel(err)
	}
	return cn
}

// adopted is the body of an answer that another exchange got.
type adopted struct {
	x, y *exchange.Exchange
}

// Next implements exchange.Body.
func (b *adopted) Next() ([]byte, error) {
	p, err := b.y.Response.Body.Next()
	if err != nil {
		b.x.Response.Trailer.CopyFrom(&b.y.Response.Trailer)
	}
	return p, err
}

// Ready implements exchange.Ready.
func (b *adopted) Ready() bool {
	r, ok := b.y.Response.Body.(exchange.Ready)
	return ok && r.Ready()
}

// Close implements exchange.Body.
func (b *adopted) Close() error {
	if b.y == nil {
		return nil
	}
	err := b.y.Response.Body.Close()
	// Cancel says nothing to the other exchange from here on.
	_ = b.x.Bind(nil)
	exchange.Put(b.y)
	b.y = nil
	return err
}

// Raw, Advance and Broken implement h1.RawBody: the answer may be spliced as
// if it were our own.
func (b *adopted) Raw() (*wire.Conn, []byte, int64) {
	if r, ok := b.y.Response.Body.(h1.RawBody); ok {
		return r.Raw()
	}
	return nil, nil, 0
}

// Advance implements h1.RawBody.
func (b *adopted) Advance(n int64) { b.y.Response.Body.(h1.RawBody).Advance(n) }

// Broken implements h1.RawBody.
func (b *adopted) Broken(err error) error { return b.y.Response.Body.(h1.RawBody).Broken(err) }

var _ h1.RawBody = (*adopted)(nil)
