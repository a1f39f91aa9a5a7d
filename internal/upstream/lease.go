package upstream

import (
	"errors"
	"io"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/h1"
	"gatehouse.dev/gatehouse/internal/h2"
	"gatehouse.dev/gatehouse/internal/wire"
)

// maxAgain is how often an exchange is sent again on another connection of the
// same endpoint, which did nothing about it.
const maxAgain = 3

// mayShare reports whether a request can be sent over HTTP/2, where the only
// protocol to change to is WebSocket (RFC 8441).
func mayShare(r *exchange.Request) bool {
	return r.Upgrade == "" || exchange.EqualFold(r.Upgrade, "websocket")
}

// share sends the request on a connection that is shared. Without a result it
// is to be sent again.
func (a *attempt) share(k *shared) (*use, *failure) {
	e, x := a.e, a.x
	x.Upstream.Attempts++
	x.Upstream.Reused = a.kept
	err := k.RoundTripWithin(x, e.hostField(x), (*h2.ResponseLimits)(a.limits))
	if err == nil {
		return leased(e, x), nil
	}
	if errors.Is(err, h2.ErrNoTunnel) && !e.scheme.only() {
		a.single = true // nothing was sent
		return nil, nil
	}
	whole, declined := h2.Unsent(err), h2.Refused(err)
	if whole && (declined || a.kept && idempotent(x.Request.Method)) && a.tries < maxAgain && x.Canceled() == nil {
		a.tries++
		return nil, nil
	}
	e.end()
	if errors.Is(err, h2.ErrNoTunnel) {
		return nil, &failure{problem: noTunnel.With(err), unsent: true, whole: true}
	}
	f := e.failed(x, err, whole, !a.kept || !whole || declined)
	if whole && declined && x.Canceled() == nil {
		f.problem, f.why, f.unsent = refused.With(err), connect, true
	}
	return nil, f
}

// lease is one exchange's use of a connection that is shared. It is the body of
// the answer.
type lease struct {
	use
	x      *exchange.Exchange
	body   exchange.Body
	err    error // io.EOF at the end, or why it broke off
	closed bool

	due  int64 // when the whole answer has to be over, 0 for never; the body forgets it when it is closed
	gave int64 // when the body last gave something
	held int64 // how long nothing was asked for
}

// leased puts a lease around the answer that came.
func leased(e *endpoint, x *exchange.Exchange) *use {
	if t, ok := x.Response.Body.(exchange.Tunnel); ok && x.Response.Status == 101 {
		s := &leasedTunnel{lease: lease{use: use{e: e, shard: x.Client.Shard}, x: x, body: t}, inner: t}
		x.Response.Body = s
		s.heard(x)
		return &s.use
	}
	s := &lease{use: use{e: e, shard: x.Client.Shard, call: x.Request.GRPC()}, x: x, body: x.Response.Body, due: x.Times.Due, gave: x.Times.FirstByte}
	x.Response.Body = s
	s.heard(x)
	return &s.use
}

// Next implements exchange.Body.
func (s *lease) Next() ([]byte, error) {
	s.held += exchange.Now() - s.gave
	p, err := s.body.Next()
	s.gave = exchange.Now()
	s.err = err
	if err == io.EOF && s.call {
		s.failed = failedCall(&s.x.Response.Trailer)
	}
	return p, err
}

// Ready implements exchange.Ready.
func (s *lease) Ready() bool {
	r, ok := s.body.(exchange.Ready)
	return ok && r.Ready()
}

// Close gives the place back.
func (s *lease) Close() error {
	if s.closed {
		return nil
	}
	s.closed = true
	err := s.body.Close()
	gated := s.gated
	// What h1 does for its own bodies.
	s.err = h1.Blame(s.err, s.x.Times.FirstByte, s.due, s.held+exchange.Now()-s.gave)
	if s.err == io.EOF {
		s.err = nil
	}
	s.over(s.err)
	if gated {
		s.e.u.gate.leave()
	}
	return err
}

// leasedTunnel is the upstream's half of a WebSocket over HTTP/2.
type leasedTunnel struct {
	lease
	inner exchange.Tunnel
}

// Join implements exchange.Tunnel.
func (s *leasedTunnel) Join(x *exchange.Exchange, client exchange.Stream) error {
	u := s.e.u
	u.meter.Tunnels(s.shard, 1)
	defer u.meter.Tunnels(s.shard, -1)
	w := newWatched(x, client, u.limits.Idle)
	err := w.stop(s.inner.Join(x, w))
	x.Request.Received += w.forth.Load()
	x.Response.Sent += w.back.Load()
	return errors.Join(err, s.Close(), x.Canceled())
}

// watched is a client's half of a WebSocket whose other half is a stream of
// HTTP/2. It keeps the limits of tunnels, and counts.
type watched struct {
	exchange.Stream
	x     *exchange.Exchange
	down  *wire.Conn // nil when the client's half is no socket
	early []byte     // what was read of it before
	idle  time.Duration
	until int64 // when the tunnel's life ends, 0 for never

	forth, back    atomic.Int64 // bytes that were moved
	moved          atomic.Int64 // when, last
	sent, received *frames      // nil unless they are looked at; by the upstream and by the client
	tooFar         error        // of the client

	mu     sync.Mutex
	over   bool
	reason error // why it was ended
	timer  *time.Timer
}

func newWatched(x *exchange.Exchange, client exchange.Stream, idle time.Duration) *watched {
	w := &watched{Stream: client, x: x, idle: shorter(idle, x.Tunnel.Idle)}
	if t := &x.Tunnel; t.MaxMessage > 0 || t.MaxFrame > 0 {
		w.received = &frames{maxMessage: t.MaxMessage, maxFrame: t.MaxFrame, masked: true}
		w.sent = &frames{maxMessage: t.MaxMessage, maxFrame: t.MaxFrame}
	}
	if raw, ok := client.(h1.RawStream); ok {
		w.down, w.early = raw.Raw()
		w.down.SetLimit(0)
		w.down.SetTimeout(0) // the times are kept here
		// A client that only stopped sending is still served; one that has
		// gone is not seen by reading.
		w.down.Watch(w, math.MaxInt64)
	}
	now := exchange.Now()
	w.moved.Store(now)
	if d := x.Tunnel.Lifetime; d > 0 {
		w.until = now + int64(d)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if d := w.left(now); d > 0 {
		w.timer = time.AfterFunc(d, w.look)
	}
	return w
}

// left returns how long the tunnel may go on if nothing moves, 0 for ever and
// less when it is over.
func (w *watched) left(now int64) time.Duration {
	at := w.until
	if idle := w.moved.Load() + int64(w.idle); w.idle > 0 && (at == 0 || idle < at) {
		at = idle
	}
	if at == 0 {
		return 0
	}
	if at <= now {
		return -1
	}
	return time.Duration(at - now)
}

// look ends the tunnel when its time has passed.
func (w *watched) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return
	}
	if d := w.left(exchange.Now()); d > 0 {
		w.timer.Reset(d)
		return
	}
	w.end(wire.ErrTimeout)
}

// ClientGone implements wire.Watcher.
func (w *watched) ClientGone() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.end(exchange.ErrClientGone)
}

// end wakes whoever waits for either half. The caller holds w.mu.
func (w *watched) end(reason error) {
	if w.over || w.reason != nil {
		return
	}
	w.reason = reason
	w.x.Divert(reason)
	if w.down != nil {
		w.down.Interrupt()
	} else {
		_ = w.Stream.Close() // who reads from it must be woken
	}
}

// stop ends the watch. It returns what the tunnel ended with.
func (w *watched) stop(err error) error {
	w.mu.Lock()
	w.over = true
	if w.timer != nil {
		w.timer.Stop()
	}
	reason := w.reason
	w.mu.Unlock()
	w.x.Rejoin()
	if reason != nil {
		return reason // what followed from it is of no interest
	}
	return err
}

// Read implements exchange.Stream.
func (w *watched) Read(p []byte) (n int, err error) {
	switch {
	case w.tooFar != nil:
		return 0, w.tooFar
	case len(w.early) > 0:
		n = copy(p, w.early)
		w.early = w.early[n:]
	case w.down != nil:
		n, err = w.down.Read(p)
	default:
		n, err = w.Stream.Read(p)
	}
	if f := w.received; f != nil && n > 0 {
		f.mu.Lock()
		good, bad := f.scan(p[:n])
		f.mu.Unlock()
		if bad != nil {
			w.refuse(bad)
			n, err, w.tooFar = good, nil, bad
			if n == 0 {
				return 0, bad
			}
		}
	}
	w.forth.Add(int64(n))
	w.moved.Store(exchange.Now())
	return n, err
}

// refuse tells the client why the tunnel ends, if no frame is under way to it.
func (w *watched) refuse(bad error) {
	var e frameError
	if errors.As(bad, &e) {
		w.sent.end(w.Stream, e)
	}
}

// Write implements exchange.Stream.
func (w *watched) Write(p []byte) (int, error) {
	if w.sent != nil {
		if err := w.sent.pass(w.Stream, p); err != nil {
			return 0, err
		}
	} else if _, err := w.Stream.Write(p); err != nil {
		return 0, err
	}
	w.back.Add(int64(len(p)))
	w.moved.Store(exchange.Now())
	return len(p), nil
}

// Close implements exchange.Stream.
func (w *watched) Close() error {
	if w.down != nil {
		w.down.Unwatch()
	}
	return w.Stream.Close()
}

var (
	_ exchange.Ready  = (*lease)(nil)
	_ exchange.Tunnel = (*leasedTunnel)(nil)
	_ wire.Watcher    = (*watched)(nil)
)
