package upstream

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/h1"
	"gatehouse.dev/gatehouse/internal/wire"
)

// endpoint is one address of the service, with its pool of connections. The
// one that was used last is used next, so that those which are not needed
// become old.
type endpoint struct {
	u       *Upstream
	site    *site
	address string

	mu      sync.Mutex
	idle    []*conn // the oldest first
	open    int     // idle ones and those in use
	retired bool
	pruner  *time.Timer // set once there was an idle connection
	pruning bool        // the pruner is going to run
}

// conn is a connection to an endpoint.
type conn struct {
	*h1.Client
	e     *endpoint
	shard uint32        // of its last exchange's counters
	since time.Duration // when it became idle, on the sweeper's clock
	fresh bool          // it has not carried an exchange before
}

// serve has the endpoint answer. When it returns a problem, next says that
// nothing was sent and another endpoint may be asked.
func (e *endpoint) serve(x *exchange.Exchange) (p *exchange.Problem, next bool) {
	c := e.take()
	for {
		if c == nil {
			if c, p, next = e.connect(x); p != nil {
				return p, next
			}
		} else {
			e.u.meter.Reused(x.Client.Shard)
		}
		c.shard = x.Client.Shard
		x.Upstream.Attempts++
		x.Upstream.Reused = !c.fresh
		err := c.RoundTrip(x, e.host(x), e.u.pool.Idle == 0)
		if err == nil {
			e.answered(x, c)
			return nil, false
		}
		// The service may have closed a kept connection at the moment when it
		// was used (RFC 9110, section 9.2.2).
		again := !c.fresh && idempotent(x.Request.Method) && c.Unsent(err) && x.Canceled() == nil
		c.Close()
		if !again {
			return problemOf(x, err), false
		}
		e.u.meter.Retried(x.Client.Shard)
		c = nil
	}
}

// answered hands the answer over.
func (e *endpoint) answered(x *exchange.Exchange, c *conn) {
	e.u.meter.FirstByte(c.shard, time.Duration(x.Times.FirstByte-x.Times.Sent))
	if x.Response.Status == 101 {
		x.Response.Body = &tunnel{c: c, idle: e.u.limits.Idle}
	}
}

// host returns the value of the Host field.
func (e *endpoint) host(x *exchange.Exchange) string {
	if e.u.preserve && x.Request.Authority != "" {
		return x.Request.Authority
	}
	return e.site.host
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
	if e.retired || len(e.idle) >= e.u.pool.Idle {
		return false
	}
	e.idle = append(e.idle, c)
	e.u.meter.Idle(c.shard, 1)
	if !e.pruning {
		e.pruning = true
		if e.pruner == nil {
			e.pruner = time.AfterFunc(pruneInterval, e.prune)
		} else {
			e.pruner.Reset(pruneInterval)
		}
	}
	return true
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
	if e.pruning = len(kept) > 0; e.pruning {
		e.pruner.Reset(pruneInterval)
	}
	e.mu.Unlock()
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
	if e.pruner != nil {
		e.pruner.Stop()
	}
	e.mu.Unlock()
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

// connect establishes a connection. When it returns a problem, next says that
// another endpoint may be asked.
func (e *endpoint) connect(x *exchange.Exchange) (c *conn, p *exchange.Problem, next bool) {
	if !e.u.reserve() {
		return nil, &overloaded, false
	}
	if !e.reserve() {
		e.u.open.Add(-1)
		return nil, &overloaded, true
	}
	ctx, cancel := e.u.patience()
	defer cancel()
	wc, err := e.dial(ctx, x, cancel)
	if err == nil {
		e.u.meter.Opened(x.Client.Shard)
		c := &conn{e: e, fresh: true}
		c.Client = h1.NewClient(wc, &e.u.limits, c)
		return c, nil, false
	}
	e.release()
	x.Upstream.Attempts++
	x.Upstream.Reused = false
	if reason := x.Canceled(); reason != nil {
		return nil, clientGone.With(reason), false
	}
	e.u.meter.Failed(x.Client.Shard)
	var slow net.Error
	switch {
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return nil, overloaded.With(err), false
	case errors.As(err, &slow) && slow.Timeout():
		return nil, connectTimeout.With(err), true
	}
	return nil, connectFailed.With(err), true
}

func (e *endpoint) dial(ctx context.Context, x *exchange.Exchange, cancel context.CancelFunc) (*wire.Conn, error) {
	if err := x.Bind(canceler(cancel)); err != nil {
		return nil, err
	}
	wc, err := wire.Dial(ctx, e.site.network, e.address, e.u.sweeper)
	if err == nil {
		if err = e.u.introduce(x, wc); err != nil {
			_ = wc.Close()
		}
	}
	if reason := x.Bind(nil); err == nil && reason != nil {
		_ = wc.Close() // nothing was sent on it
		return nil, reason
	}
	return wc, err
}
