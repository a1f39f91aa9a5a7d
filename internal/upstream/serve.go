package upstream

import (
	"slices"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/upstream/balance"
	"gatehouse.dev/gatehouse/internal/upstream/health"
)

// Serve asks the service and fills in x.Response, whose Body must be closed, or
// fails x. An answer of status 101 has a Body that is an exchange.Tunnel.
//
// An endpoint that cannot be reached is passed over for the next one, until
// ten have been tried or three have run into the connect timeout: nothing was
// sent, so this is safe for every request. What else is sent again is for the
// settings to say.
func (u *Upstream) Serve(x *exchange.Exchange) { u.serve(x) }

// ServeOr is Serve, and calls next for what this upstream cannot serve: no
// endpoint is healthy or can be reached, or the breaker is open. Nothing of the request
// was sent then.
func (u *Upstream) ServeOr(x *exchange.Exchange, next func(*exchange.Exchange)) {
	if u.serve(x) || x.Problem == nil || x.Problem.Side == exchange.SideClient {
		return
	}
	u.meter.Event(FailedOver)
	x.Problem = nil
	next(x)
}

// call is one exchange on its way through an upstream.
type call struct {
	u       *Upstream
	x       *exchange.Exchange
	key     uint64
	tried   []*balance.Load
	last    *failure
	use     *use // of the connection of the answer
	waits   int  // how often it was let in again
	slow    int  // endpoints that did not even refuse a connection
	passed  int  // endpoints that were passed over
	sends   int  // attempts of which something was sent
	sent    bool // something of the request was sent
	began   int64
	gated   bool
	patient bool // there is a limit for the whole
	had     token
	until   time.Time
	body    []byte // the request's, when it is held
	held    bool
	copy    *copied       // the request's body, on its way, when its length is not known
	pause   time.Duration // before the next attempt
}

const (
	// maxSlow is how many endpoints that do not even refuse a connection are
	// tried for one exchange.
	maxSlow = 3
	// maxPassed is how many endpoints without a connection are tried.
	maxPassed = 10
	// maxTried is how many endpoints are tried, those that are full included.
	maxTried = 100
	// maxWaits is how often an exchange is put back into the queue.
	maxWaits = 3
)

// serve reports whether something of the request was sent.
func (u *Upstream) serve(x *exchange.Exchange) (sent bool) {
	x.Upstream.Name, x.Upstream.Unseen = u.name, false
	c := call{u: u, x: x}
	var pass health.Pass
	if u.breaks {
		var ok bool
		var wait time.Duration
		if pass, wait, ok = u.service.breaker.Allow(health.Now()); !ok {
			p := broken
			p.Retry = max(wait, time.Second)
			u.meter.Event(BreakerRefused)
			x.Fail(&p)
			return false
		}
		c.began = exchange.Now()
	}
	if u.gate == nil {
		c.serve()
	} else if u.gate.enter(x, u.class(x)) {
		c.gated = true
		active, _, _ := u.gate.load()
		if c.began == 0 {
			c.began = exchange.Now()
		}
		c.serve()
		u.adapt(x, c.began, active)
		if x.Problem != nil && c.gated {
			u.gate.leave()
		}
	} else if x.Problem == &overloaded {
		u.meter.Event(Shed)
	}
	if u.breaks {
		c.tellBreaker(pass)
	}
	x.Upstream.Unseen = !c.sent
	return c.sent
}

// class returns which class of requests an exchange belongs to.
func (u *Upstream) class(x *exchange.Exchange) int {
	for _, g := range x.Who.Groups {
		if slices.Contains(u.first, g) {
			return 0
		}
	}
	return classes - 1
}

// adapt tells the adaptive limit how long an exchange took.
func (u *Upstream) adapt(x *exchange.Exchange, began int64, active int) {
	if u.gradient == nil || x.Problem != nil && x.Problem.Code != timedOut.Code {
		return
	}
	if u.gradient.Observe(health.Now(), time.Duration(exchange.Now()-began), active) {
		u.limit(u.live.Load())
	}
}

// serve picks endpoints until one answers or there is no use in another.
func (c *call) serve() {
	u, x := c.u, c.x
	s := u.live.Load()
	if len(s.members) == 0 {
		if s = u.await(x); s == nil {
			return
		}
	}
	if u.key != nil {
		c.key = u.key(x)
	}
	if u.retry != nil || u.field != "" || u.hedge != nil {
		if !c.prepare() {
			return
		}
	}
	e := c.first(s)
	for e != nil {
		x.Upstream.Endpoint = e.address
		f := c.ask(e, s)
		if f == nil {
			x.Problem = nil
			if e = c.better(); e != nil {
				continue
			}
			c.use.gated = c.gated
			if u.sticky != nil {
				u.sticky.set(x, c.use.e, c.had, c.until)
			}
			return
		}
		x.Problem = f.problem
		c.last = f
		c.sent = c.sent || !f.unsent
		e = c.next(e, s)
	}
	if x.Problem == nil && x.Response.Status == 0 {
		x.Fail(&unavailable)
	}
}

// first returns the endpoint that is asked first: the one that the client's
// cookie means, as long as it is well, or the one whose turn it is.
func (c *call) first(s *set) *endpoint {
	if st := c.u.sticky; st != nil {
		if t, until, ok := st.read(&c.x.Request); ok {
			if at, ok := s.tokens[t]; ok && (s.members[at].usable || s.panics) {
				c.had, c.until = t, until
				return s.members[at].e
			}
		}
	}
	return s.pick(c.key, c.u.key != nil, nil)
}

// ask has one endpoint answer.
func (c *call) ask(e *endpoint, s *set) (f *failure) {
	u, x := c.u, c.x
	limits := &u.limits
	if c.patient && (c.sends > 0 || u.field != "") {
		left := u.limits.Request - time.Duration(exchange.Now()-c.began)
		if u.field != "" {
			x.Request.Header.Set(u.field, milliseconds(left))
		}
		if c.sends > 0 {
			shorter := u.limits
			shorter.Request = max(left, 1)
			limits = &shorter
		}
	}
	var cn *use
	if u.hedge != nil && c.sends == 0 && c.hedgeable() {
		cn, f = c.hedged(e, s, limits)
	} else {
		cn, f = e.serve(x, limits)
	}
	if f != nil {
		return f
	}
	c.sent = true
	c.use = cn
	if u.hedge != nil {
		u.service.times.Observe(health.Now(), time.Duration(x.Times.FirstByte-x.Times.Sent))
	}
	return nil
}

// next returns the endpoint to ask after a failed one, or nil.
func (c *call) next(e *endpoint, s *set) *endpoint {
	f, u := c.last, c.u
	c.tried = append(c.tried, &e.record.load)
	if f.unsent && (f.why == connect || f.why == full) {
		if f.problem.Code == connectTimeout.Code {
			c.slow++
		}
		if f.why == connect {
			c.passed++
		}
		if c.slow < maxSlow && c.passed < maxPassed && len(c.tried) < maxTried {
			if next := s.pick(c.key, u.key != nil, c.tried); next != nil {
				return next
			}
		}
	}
	if f.why == full && c.gated && u.gate.most > 0 && c.waits < maxWaits {
		// There are fewer places than when it was let in: an endpoint was
		// taken out meanwhile.
		c.waits++
		u.gate.leave()
		if c.gated = u.gate.enter(c.x, u.class(c.x)); !c.gated {
			return nil
		}
		c.tried = c.tried[:0]
		return u.live.Load().pick(c.key, u.key != nil, nil)
	}
	return c.retry()
}
