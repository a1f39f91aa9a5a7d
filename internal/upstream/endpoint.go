package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/h1"
	"gatehouse.dev/gatehouse/internal/upstream/health"
	"gatehouse.dev/gatehouse/internal/wire"
)

// endpoint is one address of the service, with its pool of connections. The
// one that was used last is used next, so that those which are not needed
// become old.
type endpoint struct {
	u *Upstream
	place
	record *record
	token  token       // what a sticky cookie calls it
	tls    *tls.Config // nil without TLS
	tls1   *tls.Config // the same for connections that must be HTTP/1.1
	stop   context.CancelFunc

	mu      sync.Mutex
	idle    []*conn   // the oldest first
	shared  []*shared // those of HTTP/2 that take exchanges, the oldest first
	resting int       // of them, those that carry none
	dialing *dialing  // the connection that is being established, to be shared
	single  bool      // the endpoint has chosen HTTP/1.1 where it could have had HTTP/2
	open    int       // connections, idle ones and those in use
	retired bool
	gone    bool        // its record is no longer held
	pruner  *time.Timer // set once there was an idle connection
	pruning bool        // the pruner is going to run
}

// use is one exchange's use of a connection.
type use struct {
	e     *endpoint
	shard uint32 // of the exchange's counters
	gated bool   // the exchange has a place in the gate
	again bool   // the exchange goes on, on another connection

	answered, bad bool          // there is an answer, which is an error
	took          time.Duration // until its first byte

	call   bool // of gRPC, which tells at the end what it came to
	failed bool // it told an error there
	owed   bool // the breaker is told at the end
}

// conn is an HTTP/1.1 connection to an endpoint, with the use that one
// exchange after the other makes of it.
type conn struct {
	*h1.Client
	use
	since time.Duration // when it became idle, on the sweeper's clock
	fresh bool          // it has not carried an exchange before
}

// newEndpoint returns an endpoint that the set did not have. warm means that
// it has its full share from the beginning.
func (u *Upstream) newEndpoint(p place, warm bool) *endpoint {
	r := u.memory.endpoint(u.service, p.String())
	r.health.Begin(health.Now(), warm)
	e := &endpoint{u: u, place: p, record: r, token: u.sticky.token(r.key), retired: u.retired}
	e.tls, e.tls1 = e.offer(alpnHTTP2, alpnHTTP1), e.offer(alpnHTTP1)
	if p.scheme == secureHTTP2 {
		e.tls = e.offer(alpnHTTP2)
	}
	if u.health != nil && !u.retired && !u.still {
		ctx, stop := context.WithCancel(u.ctx)
		e.stop = stop
		go u.check(ctx, e)
	}
	return e
}

// failure is why an attempt at an endpoint came to nothing.
type failure struct {
	problem *exchange.Problem
	why     reason
	unsent  bool // nothing was sent
	whole   bool // the request's body was not touched, or was given back
}

// reason is what a setting of retries names.
type reason uint8

const (
	final   reason = iota // not the endpoint's fault, or not to be repeated
	connect               // no connection
	broke                 // the connection broke before the answer
	late                  // no answer in time
	malformedAnswer
	full // the endpoint has as many connections, or requests, as it may have
)

// serve has the endpoint answer. It returns the use of the connection of the
// answer, of whatever status, or why there is none.
func (e *endpoint) serve(x *exchange.Exchange, l *h1.ResponseLimits) (*use, *failure) {
	a := attempt{e: e, x: x, limits: l, single: !e.scheme.shares() || !mayShare(&x.Request)}
	if a.single && e.scheme.only() {
		return nil, &failure{problem: &noTunnel, unsent: true, whole: true}
	}
	if !e.begin() {
		return nil, &failure{problem: &overloaded, why: full, unsent: true, whole: true}
	}
	for {
		c, k, f := a.reach()
		var u *use
		switch {
		case f != nil:
			e.end()
			return nil, f
		case k != nil:
			u, f = a.share(k)
		default:
			u, f = a.alone(c)
		}
		if u != nil || f != nil {
			return u, f
		}
		e.u.meter.Retried(x.Client.Shard)
		if e.u.retry != nil {
			e.u.retry.budget.Force(health.Now())
		}
	}
}

// attempt is one exchange at an endpoint, on one connection or, where that was
// of no use, on another.
type attempt struct {
	e      *endpoint
	x      *exchange.Exchange
	limits *h1.ResponseLimits
	single bool // it needs an HTTP/1.1 connection
	again  bool // a kept connection was of no use
	kept   bool // the connection has carried another exchange
	tries  int  // how often it was sent again to this endpoint
}

// reach returns a connection of the exchange's own, or a place on one that is
// shared.
func (a *attempt) reach() (c *conn, k *shared, f *failure) {
	e, x := a.e, a.x
	if !a.single {
		c, k, a.kept, f = e.find(x)
		return c, k, f
	}
	if !a.again {
		if c = e.take(); c != nil {
			e.u.meter.Reused(x.Client.Shard)
			return c, nil, nil
		}
	}
	return e.connect(x, true)
}

// alone sends the request on a connection of its own. Without a result it is
// to be sent again.
func (a *attempt) alone(c *conn) (*use, *failure) {
	e, x := a.e, a.x
	c.shard = x.Client.Shard
	c.SetLimits(a.limits)
	x.Upstream.Attempts++
	x.Upstream.Reused = !c.fresh
	err := c.RoundTrip(x, e.hostField(x), e.u.pool.Idle == 0)
	if err == nil {
		c.heard(x)
		if x.Response.Status == 101 {
			x.Response.Body = &tunnel{c: c, idle: e.u.limits.Idle}
		}
		return &c.use, nil
	}
	whole := c.Unsent(err)
	// The service may have closed a kept connection at the moment when it
	// was used (RFC 9110, section 9.2.2).
	c.again = !c.fresh && idempotent(x.Request.Method) && whole && x.Canceled() == nil
	fresh := c.fresh
	a.again = a.again || c.again
	again := c.again
	c.Close()
	if again {
		return nil, nil
	}
	return nil, e.failed(x, err, whole, fresh)
}

// failed says what the error of a round trip means. It has been counted that
// the exchange is over.
func (e *endpoint) failed(x *exchange.Exchange, err error, whole, fresh bool) *failure {
	f := &failure{problem: problemOf(x, err), whole: whole || x.Request.Length == 0}
	switch f.problem.Code {
	case reset.Code:
		f.why = broke
	case timedOut.Code:
		f.why = late
	case malformed.Code:
		f.why = malformedAnswer
	default:
		return f
	}
	if errors.Is(err, errHedgeWon) || errors.Is(err, wire.ErrInterrupted) {
		return f // somebody else has the answer: that says nothing about the endpoint
	}
	if f.why != broke || fresh {
		e.fault(time.Duration(exchange.Now() - x.Times.Sent))
	}
	return f
}

// heard takes note of the head of an answer.
func (s *use) heard(x *exchange.Exchange) {
	took := time.Duration(x.Times.FirstByte - x.Times.Sent)
	s.e.u.meter.FirstByte(s.shard, took)
	s.e.observe(took)
	s.took, s.answered = took, true
	s.bad = x.Response.Status >= 500 && x.Response.Status != 501
	if s.call && failedCall(&x.Response.Header) { // there is nothing but a head
		s.bad, s.call = true, false
	}
	if s.bad {
		s.e.judge(true, took)
	}
}

// over takes note that the exchange has no more use of the connection. err is
// why the body of its answer broke off.
func (s *use) over(err error) {
	if s.answered && !s.bad {
		// Only now is it known that the answer was whole.
		s.e.judge(s.failed || cut(err), s.took)
	}
	if s.owed {
		r := health.Good
		if s.failed || cut(err) {
			r = health.Bad
		}
		s.e.u.service.breaker.Done(health.Now(), health.Pass{}, r, s.took)
	}
	s.answered, s.bad, s.call, s.failed, s.owed = false, false, false, false, false
	if s.again {
		s.again = false
	} else {
		s.e.end()
	}
	s.gated = false
}

// begin counts an exchange at the endpoint, end ends it. It reports false when
// the endpoint has as many as it may have.
func (e *endpoint) begin() bool {
	if !e.record.load.BeginWithin(int64(e.u.each)) {
		return false
	}
	if e.u.key != nil {
		e.u.active.Add(1)
	}
	return true
}

func (e *endpoint) end() {
	e.record.load.End()
	if e.u.key != nil {
		e.u.active.Add(-1)
	}
}

// hostField returns the value of the Host field.
func (e *endpoint) hostField(x *exchange.Exchange) string {
	if e.u.preserve && x.Request.Authority != "" {
		return x.Request.Authority
	}
	return e.host
}

// idempotent reports whether a request may be sent twice (RFC 9110, section
// 9.2.2).
func idempotent(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE":
		return true
	}
	return false
}

// take returns an idle connection that can be used, or nil. Whatever came on a
// connection since its last answer would be taken for the next one, so each is
// looked at.
func (e *endpoint) take() *conn {
	for {
		e.mu.Lock()
		n := len(e.idle) - 1
		if n < 0 {
			e.mu.Unlock()
			return nil
		}
		c := e.idle[n]
		e.idle[n] = nil
		e.idle = e.idle[:n]
		e.mu.Unlock()
		e.u.meter.Idle(c.shard, -1)
		if !e.u.expired(c.since) && c.Alive() {
			return c
		}
		c.close()
	}
}

// oldest takes out the connection that has been idle for the longest time, or
// returns nil.
func (e *endpoint) oldest() *conn {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.idle) == 0 {
		return nil
	}
	c := e.idle[0]
	e.u.meter.Idle(c.shard, -1)
	e.idle = append(e.idle[:0], e.idle[1:]...)
	return c
}

// Free implements h1.Owner.
func (c *conn) Free(reusable bool) {
	gated := c.gated
	c.over(c.BodyError())
	if gated {
		defer c.e.u.gate.leave() // when the connection is back, so that who comes in finds it
	}
	if !reusable || !c.e.keep(c) {
		c.close()
	}
}

// keep puts a connection among the idle ones, if there is room.
func (e *endpoint) keep(c *conn) bool {
	c.fresh = false
	c.since = e.u.sweeper.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.retired || len(e.idle)+e.resting >= e.u.pool.Idle {
		return false
	}
	e.idle = append(e.idle, c)
	e.u.meter.Idle(c.shard, 1)
	e.watch()
	return true
}

// watch has the pruner run. The caller holds e.mu.
func (e *endpoint) watch() {
	if e.pruning {
		return
	}
	e.pruning = true
	if e.pruner == nil {
		e.pruner = time.AfterFunc(pruneInterval, e.prune)
	} else {
		e.pruner.Reset(pruneInterval)
	}
}

// pruneInterval is how often idle connections are looked at.
const pruneInterval = 2 * time.Second

// prune closes the idle connections that have become old or were closed by the
// service. It runs while there are any.
func (e *endpoint) prune() {
	var dead []*conn
	e.mu.Lock()
	kept := e.idle[:0]
	for _, c := range e.idle {
		if e.u.expired(c.since) || !c.Alive() {
			dead = append(dead, c)
		} else {
			kept = append(kept, c)
		}
	}
	clear(e.idle[len(kept):])
	e.idle = kept
	old := e.drop(func(k *shared) bool { return k.using == 0 && e.u.expired(k.since) })
	if e.pruning = len(kept)+e.resting > 0; e.pruning {
		e.pruner.Reset(pruneInterval)
	}
	e.mu.Unlock()
	for _, k := range old {
		k.Shut()
	}
	for _, c := range dead {
		e.u.meter.Idle(c.shard, -1)
		c.close()
	}
}

// retire closes idle connections, and others as soon as they become idle.
func (e *endpoint) retire() {
	e.mu.Lock()
	e.retired = true
	idle := e.idle
	e.idle = nil
	all := e.drop(func(*shared) bool { return true })
	if e.pruner != nil {
		e.pruner.Stop()
	}
	gone := e.gone
	e.gone = true
	e.mu.Unlock()
	if e.stop != nil {
		e.stop()
	}
	if !gone {
		e.u.memory.forget(e.u.service, e.record)
	}
	for _, k := range all {
		k.Shut()
	}
	for _, c := range idle {
		e.u.meter.Idle(c.shard, -1)
		c.close()
	}
}

// close closes a connection that is in nobody's hands.
func (c *conn) close() {
	// There is nobody whom an error would concern.
	_ = c.Shut()
	c.e.u.meter.Closed(c.shard)
	c.e.release()
}

// reserve takes a place for a connection.
func (e *endpoint) reserve() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if most := e.u.pool.MaxPerEndpoint; most > 0 && e.open >= most {
		return false
	}
	e.open++
	return true
}

func (e *endpoint) release() {
	e.mu.Lock()
	e.open--
	e.mu.Unlock()
	e.u.open.Add(-1)
}

// connect establishes a connection: one that is the exchange's own, or one of
// HTTP/2 with a place for it. single asks for the former.
func (e *endpoint) connect(x *exchange.Exchange, single bool) (*conn, *shared, *failure) {
	if !e.u.reserve() {
		return nil, nil, &failure{problem: &overloaded, unsent: true, whole: true}
	}
	if !e.reserve() {
		e.u.open.Add(-1)
		return nil, nil, &failure{problem: &overloaded, why: full, unsent: true, whole: true}
	}
	ctx, cancel := e.u.patience()
	defer cancel()
	began := exchange.Now()
	wc, http2, err := e.establish(ctx, x, cancel, single)
	if err == nil {
		e.u.meter.Opened(x.Client.Shard)
		if http2 {
			if k := e.open2(wc, x.Client.Shard); k != nil {
				return nil, k, nil
			}
			err = errGone // as soon as it was there
		} else {
			if !single {
				e.mu.Lock()
				e.choose(true)
				e.mu.Unlock()
			}
			c := &conn{use: use{e: e}, fresh: true}
			c.Client = h1.NewClient(wc, &e.u.limits, c)
			return c, nil, nil
		}
	} else {
		e.release()
	}
	x.Upstream.Attempts++
	x.Upstream.Reused = false
	f := &failure{unsent: true, whole: true}
	if reason := x.Canceled(); reason != nil {
		f.problem = clientGone.With(reason)
		return nil, nil, f
	}
	if errors.Is(err, errHedgeWon) || errors.Is(err, context.Canceled) {
		f.problem = reset.With(err)
		return nil, nil, f
	}
	e.u.meter.Failed(x.Client.Shard)
	var slow net.Error
	switch {
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		f.problem = overloaded.With(err)
		return nil, nil, f
	case errors.As(err, &slow) && slow.Timeout(), errors.Is(err, wire.ErrTimeout):
		f.problem = connectTimeout.With(err)
	case e.tls != nil && tlsFailed(err):
		f.problem = untrusted.With(err)
	default:
		f.problem = connectFailed.With(err)
	}
	f.why = connect
	e.fault(time.Duration(exchange.Now() - began))
	return nil, nil, f
}

// establish dials, and makes the connection secure where it should be. http2
// says what it speaks.
func (e *endpoint) establish(ctx context.Context, x *exchange.Exchange, cancel context.CancelFunc, single bool) (wc *wire.Conn, http2 bool, err error) {
	if err := x.Bind(canceler(cancel)); err != nil {
		return nil, false, err
	}
	nc, err := e.u.dial(ctx, e.network, e.address)
	if err != nil {
		return nil, false, errors.Join(x.Bind(nil), err)
	}
	wc = wire.New(nc, e.u.sweeper)
	err = e.u.introduce(x, wc)
	http2 = !single && e.scheme.shares()
	if err == nil && e.tls != nil {
		cfg, agreed := e.tls, ""
		if single {
			cfg = e.tls1
		}
		agreed, err = e.secure(ctx, x, wc, cfg)
		http2 = !single && agreed == alpnHTTP2
	}
	if reason := x.Bind(nil); err == nil && reason != nil {
		err = reason
	}
	if err != nil {
		_ = wc.Close() // no request was sent on it
		return nil, false, err
	}
	return wc, http2, nil
}

// elsewhere sends an exchange's request to the endpoint for a test of how well
// it is: on a connection of its own, which nobody else uses.
func (e *endpoint) elsewhere(ctx context.Context, port string) (net.Conn, error) {
	address := e.address
	if port != "" && e.network == "tcp" {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		address = net.JoinHostPort(host, port)
	}
	return e.u.dial(ctx, e.network, address)
}
