package upstream

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/h2"
	"gatehouse.dev/gatehouse/internal/wire"
)

// This file is the connections of HTTP/2 to an endpoint, each shared by many
// exchanges. The oldest one with a place is used first, so that those which
// are not needed become idle. While one is being established others wait for
// it, rather than establish one each.

// shared is a connection of HTTP/2. What changes in it is guarded by the
// endpoint's mutex.
type shared struct {
	*h2.Client
	e     *endpoint
	shard uint32

	using   int           // exchanges with a place
	since   time.Duration // when it became idle, on the sweeper's clock
	listed  bool          // the endpoint gives its places away
	resting bool          // it is listed, and idle
	gone    bool          // it takes no further exchange
	out     bool          // it is no longer counted
}

// errGone is why a connection was of no use although it was established.
var errGone = errors.New("the endpoint ended the connection at once")

// dialing is a connection that is being established.
type dialing struct {
	done    chan struct{}
	failure *failure // of all who wait for it, once done is closed
}

// find returns a place on a connection that is shared, or a connection of the
// exchange's own where the endpoint does not speak HTTP/2. kept says that it
// has carried an exchange before.
func (e *endpoint) find(x *exchange.Exchange) (c *conn, k *shared, kept bool, f *failure) {
	if e.u.header != 0 { // the connection is for one client
		c, k, f = e.connect(x, false)
		return c, k, false, f
	}
	for {
		e.mu.Lock()
		if k = e.seat(); k != nil {
			e.mu.Unlock()
			e.u.meter.Reused(x.Client.Shard)
			return nil, k, true, nil
		}
		d := e.dialing
		if e.single || d == nil {
			break
		}
		e.mu.Unlock()
		if f = d.wait(x); f != nil {
			return nil, nil, false, f
		}
	}
	if e.single {
		e.mu.Unlock()
		if c = e.take(); c != nil {
			e.u.meter.Reused(x.Client.Shard)
			return c, nil, true, nil
		}
		c, k, f = e.connect(x, false)
		return c, k, false, f
	}
	d := &dialing{done: make(chan struct{})}
	e.dialing = d
	e.mu.Unlock()
	defer func() {
		// Who was cancelled has not failed for the others.
		if f != nil && (f.why != final || f.problem.Code == overloaded.Code) {
			d.failure = f
		}
		e.mu.Lock()
		e.dialing = nil
		e.mu.Unlock()
		close(d.done)
	}()
	c, k, f = e.connect(x, false)
	return c, k, false, f
}

// wait waits until the connection is there, or is not going to be.
func (d *dialing) wait(x *exchange.Exchange) *failure {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	err := x.Bind(canceler(cancel))
	if err == nil {
		select {
		case <-d.done:
		case <-ctx.Done():
		}
		err = x.Bind(nil)
	}
	if err != nil {
		f := &failure{problem: reset.With(err), unsent: true, whole: true}
		if x.Canceled() != nil {
			f.problem = clientGone.With(err)
		}
		return f
	}
	if d.failure == nil {
		return nil
	}
	x.Upstream.Attempts++
	x.Upstream.Reused = false
	f := *d.failure
	return &f
}

// seat takes a place on a connection that is there, or returns nil. The caller
// holds e.mu.
func (e *endpoint) seat() *shared {
	for _, k := range e.shared {
		if k.resting && e.u.expired(k.since) || !k.Take() {
			continue
		}
		k.using++
		e.wake(k)
		return k
	}
	return nil
}

// wake takes a connection from the idle ones. The caller holds e.mu.
func (e *endpoint) wake(k *shared) {
	if k.resting {
		k.resting = false
		e.resting--
		e.u.meter.Idle(k.shard, -1)
	}
}

// open2 begins HTTP/2 on a connection and takes the first place, or returns
// nil when there is none.
func (e *endpoint) open2(wc *wire.Conn, shard uint32) *shared {
	k := &shared{e: e, shard: shard}
	name := "http"
	if e.scheme.secure() {
		name = "https"
	}
	k.Client = h2.NewClient(wc, name, (*h2.ResponseLimits)(&e.u.limits), k)
	took := k.Take()
	e.mu.Lock()
	e.choose(false)
	switch {
	case !took:
		e.leave(k)
	case e.u.header != 0 || e.retired || k.gone:
		k.using = 1
	default:
		k.using, k.listed = 1, true
		e.shared = append(e.shared, k)
	}
	e.mu.Unlock()
	if !took {
		k.Shut()
		return nil
	}
	return k
}

// choose takes note of which protocol an endpoint that has the choice has
// chosen. The caller holds e.mu.
func (e *endpoint) choose(single bool) {
	if e.scheme == secureHTTP && e.single != single {
		e.single = single
		go e.u.limit(e.u.live.Load()) // connections bound the exchanges, or no longer do
	}
}

// Free implements h2.Owner: a place was given back.
func (k *shared) Free(*h2.Client) {
	e := k.e
	e.mu.Lock()
	shut := false
	if k.using--; k.using == 0 {
		if k.listed && len(e.idle)+e.resting < e.u.pool.Idle {
			k.resting, k.since = true, e.u.sweeper.Now()
			e.resting++
			e.u.meter.Idle(k.shard, 1)
			e.watch()
		} else {
			shut = true
			e.leave(k)
		}
	}
	e.mu.Unlock()
	if shut {
		k.Shut()
	}
}

// Gone implements h2.Owner: the connection takes no further exchange.
func (k *shared) Gone(*h2.Client) {
	k.e.mu.Lock()
	k.e.leave(k)
	k.e.mu.Unlock()
}

// Panicked implements h2.Owner.
func (k *shared) Panicked(v any) { k.e.panicked(v) }

func (e *endpoint) panicked(v any) {
	e.u.log.Error("a panic while an answer was read", "upstream", e.u.name, "endpoint", e.address,
		"panic", fmt.Sprint(v), "stack", string(debug.Stack()))
}

// leave has no further exchange use a connection, which is counted as long as
// one does. The caller holds e.mu, and ends the connection.
func (e *endpoint) leave(k *shared) {
	k.gone = true
	e.wake(k)
	if k.listed {
		k.listed = false
		at := slices.Index(e.shared, k)
		e.shared = slices.Delete(e.shared, at, at+1)
	}
	if k.using == 0 && !k.out {
		k.out = true
		e.open--
		e.u.open.Add(-1)
		e.u.meter.Closed(k.shard)
	}
}

// drop has no further exchange use the connections that which says, and
// returns them for the caller, who holds e.mu, to be shut.
func (e *endpoint) drop(which func(*shared) bool) (dropped []*shared) {
	for _, k := range slices.Clone(e.shared) {
		if which(k) {
			e.leave(k)
			dropped = append(dropped, k)
		}
	}
	return dropped
}

// evict ends the connection that has been idle for the longest time, one of
// HTTP/1.1 first, and reports whether there was any.
func (e *endpoint) evict() bool {
	if c := e.oldest(); c != nil {
		c.close()
		return true
	}
	e.mu.Lock()
	var idle *shared
	for _, k := range e.shared {
		if k.resting && (idle == nil || k.since < idle.since) {
			idle = k
		}
	}
	if idle != nil {
		e.leave(idle)
	}
	e.mu.Unlock()
	if idle != nil {
		idle.Shut()
	}
	return idle != nil
}

// sharing reports whether an endpoint's connections are, as far as is known,
// not for one exchange at a time.
func (e *endpoint) sharing() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.scheme.shares() && !e.single && e.u.header == 0
}

var _ h2.Owner = (*shared)(nil)
