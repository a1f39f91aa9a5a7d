package h2

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/net/http2"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/wire"
)

// turn is the serving of one request. It is the exchange's Downstream.
type turn struct {
	stream
	k       *conn
	x       *exchange.Exchange // nil when nobody may cancel it any more
	problem *exchange.Problem  // why the handler does not see it
	silent  bool               // that the stream ends is our own doing

	body   requestBody
	answer answer
	tunnel tunnelStream
}

var turns = sync.Pool{New: func() any { return new(turn) }}

// start readies a turn for the head of a request.
func (t *turn) start(k *conn, id uint32) {
	x := exchange.Get()
	x.Client, x.Down = k.client, t
	x.Times.Start = exchange.Now()
	x.Request.Scheme = "http"
	if k.client.TLS != nil {
		x.Request.Scheme = "https"
	}
	t.k, t.x, t.problem, t.silent = k, x, nil, false
	t.id = id
	t.body = requestBody{t: t}
	t.answer = answer{}
	t.tunnel = tunnelStream{}
}

// admit looks at what is well-formed and still not served.
func (t *turn) admit(b *fieldBlock) *exchange.Problem {
	return b.admit(&t.x.Request, t.k.limits.Body)
}

// admit looks at what is well-formed and still not served. body is the most
// bytes that one may have, 0 for no limit.
func (b *fieldBlock) admit(r *exchange.Request, body int64) *exchange.Problem {
	switch {
	case r.Method == "CONNECT":
		return &connectRefused
	case exchange.EqualFold(r.Method, "TRACE"):
		// A service may not tell "trace" from TRACE.
		return &traceRefused
	case r.Upgrade != "" && r.Upgrade != "websocket":
		return &protocolRefused
	case b.expects > 0 && (b.expects > 1 || !exchange.EqualFold(b.expect, "100-continue")):
		return &expectationFailed
	case body > 0 && r.Length > body:
		return &bodyTooLarge
	}
	r.Expect = b.expects > 0 && r.Length != 0
	if r.Upgrade != "" {
		upgradeFields(&r.Header)
	}
	return nil
}

// run is the exchange's goroutine.
func (t *turn) run() {
	if t.problem != nil {
		t.refuse()
	} else {
		t.k.s.Handler(t.x)
	}
	t.end()
}

// reject is run for a request that was reset already.
func (t *turn) reject() {
	x := t.x
	x.Fail(t.problem)
	x.Response.Status = t.problem.Status
	x.Times.End = exchange.Now()
	if t.k.s.Refused != nil {
		t.k.s.Refused(x)
	}
	t.end()
}

// refuse answers a request that no handler sees.
func (t *turn) refuse() {
	x := t.x
	x.Fail(t.problem)
	x.Render()
	err := t.WriteHead(x)
	if err == nil {
		x.Response.HeadSent = true
		_, err = t.WriteFrom(x)
	}
	if err == nil {
		err = t.Finish(x)
	}
	x.Times.End = exchange.Now()
	x.Response.Truncated = err != nil
	if t.k.s.Refused != nil {
		t.k.s.Refused(x)
	}
}

// end ends the exchange and what is left of its stream.
func (t *turn) end() {
	k, x := t.k, t.x
	k.mu.Lock()
	t.silent = true
	switch {
	case !t.open:
	case t.tunnel.t != nil:
		t.resetAs(http2.ErrCodeCancel, errDone)
	case t.answer.finished:
		// The rest of the body is of no use (RFC 9113, section 8.1).
		t.resetAs(http2.ErrCodeNo, errDone)
	default:
		t.resetAs(http2.ErrCodeInternal, errAborted)
	}
	if t.answer.finished {
		k.guard.resets.earn(1)
	}
	t.discard()
	t.x = nil
	k.flush()
	if k.running--; k.running == 0 {
		k.idle0()
		if k.dead != nil {
			k.changed.Broadcast()
		} else if k.warned {
			k.settle()
		}
	}
	k.mu.Unlock()
	exchange.Put(x)
	t.k, t.holder = nil, nil
	turns.Put(t)
}

// rateGrace is how long a body may be slower than its least rate.
const rateGrace = 5 * time.Second

// requestBody is the body of a request. Another goroutine than the exchange's
// may use it while Request.Lent says so.
type requestBody struct {
	t      *turn
	err    error // io.EOF at the end
	waited int64 // nanoseconds that it kept us waiting
}

// Next returns the next piece of the body.
func (b *requestBody) Next() ([]byte, error) {
	if b.err != nil {
		return nil, b.err
	}
	t := b.t
	k, r := t.k, &t.x.Request
	k.mu.Lock()
	defer k.mu.Unlock()
	waits := !t.buffered() && !t.stream.ended && t.failure == nil
	var before int64
	if waits {
		k.mu.Unlock()
		err := t.sayContinue()
		k.mu.Lock()
		if err != nil {
			return nil, b.broken(err)
		}
		before = exchange.Now()
		patience, ok := b.patience()
		switch {
		case !ok:
			return nil, b.broken(errLate)
		case patience > 0:
			t.readBy = before + int64(patience)
		default:
			t.readBy = 0
		}
	}
	p, err := t.next()
	if waits {
		b.waited += exchange.Now() - before
	}
	if err != nil {
		return nil, b.broken(err)
	}
	r.Received += int64(len(p))
	if most := k.limits.Body; most > 0 && r.Received > most {
		b.err = &bodyTooLarge
		return nil, b.err
	}
	return p, nil
}

// patience returns how long the next bytes may take: 0 for ever. It is false
// when they have taken too long already.
func (b *requestBody) patience() (d time.Duration, ok bool) {
	l := b.t.k.limits
	d = l.IdleTimeout
	if l.BodyMinRate > 0 {
		pace := time.Duration(float64(b.t.x.Request.Received) / float64(l.BodyMinRate) * float64(time.Second))
		left := max(rateGrace, pace) - time.Duration(b.waited)
		if left <= 0 {
			return 0, false
		}
		if d == 0 || left < d {
			d = left
		}
	}
	return d, true
}

// broken turns the end of the stream into what the body's reader is told.
// After an interruption the body can still be read.
func (b *requestBody) broken(err error) error {
	t := b.t
	if err == io.EOF {
		t.x.Request.Trailer.CopyFrom(&t.trailer)
		b.err = io.EOF
		return b.err
	}
	var reset resetError
	switch {
	case errors.Is(err, wire.ErrInterrupted):
		return err
	case errors.Is(err, errLate):
		b.err = bodyTimeout.With(wire.ErrTimeout)
	case errors.As(err, &reset) && !reset.remote:
		b.err = bodyCut.With(err)
	default:
		b.err = fmt.Errorf("%w: %w", exchange.ErrClientGone, err)
	}
	return b.err
}

// Ready reports whether Next would return without waiting.
func (b *requestBody) Ready() bool {
	t := b.t
	t.l.mu.Lock()
	defer t.l.mu.Unlock()
	return b.err != nil || t.buffered() || t.stream.ended || t.failure != nil
}

// Interrupt makes Next fail, now or when it is next called, until Close.
func (b *requestBody) Interrupt() {
	t := b.t
	t.l.mu.Lock()
	t.interrupted = true
	t.reading.Broadcast()
	t.l.mu.Unlock()
}

// Close ends the use of the body. The client is told to send no more of it
// when the answer is finished.
func (b *requestBody) Close() error {
	t := b.t
	t.l.mu.Lock()
	t.interrupted = false
	t.l.mu.Unlock()
	return nil
}

var (
	_ exchange.Ready       = (*requestBody)(nil)
	_ exchange.Interrupter = (*requestBody)(nil)
)
