package h1

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/wire"
)

// This file is the life of a client's connection, from top to bottom. While
// the connection is idle there is only a conn and a goroutine that waits. When
// bytes come, a turn is borrowed, which has everything that serving takes, and
// is given back when nothing is left to answer.

// conn is one client's connection.
type conn struct {
	s      *Server
	c      *wire.Conn
	client *exchange.Client
	state  atomic.Uint32
	served int // requests that were begun
}

// The states of a conn.
const (
	busy    = iota
	idle    // waiting for the first byte of a request
	drained // Drain found it idle
)

// Serve serves a connection until it ends, and closes it. client describes its
// other end.
func (s *Server) Serve(c *wire.Conn, client *exchange.Client) {
	k := &conn{s: s, c: c, client: client}
	s.enter(k)
	defer s.leave(k)
	// What can go wrong with closing does not concern anybody any more.
	defer c.Close()
	for {
		in, n, err := k.await()
		if err != nil || !k.turns(in, n) {
			return
		}
	}
}

// await waits for the first bytes of a request.
func (k *conn) await() (in *wire.Buffer, n int, err error) {
	k.c.SetTimeout(k.s.Limits.Load().IdleTimeout)
	k.state.Store(idle)
	if k.s.draining.Load() {
		return k.lastCall()
	}
	in, n, err = k.c.ReadBuffer()
	if k.state.CompareAndSwap(idle, busy) {
		return in, n, err
	}
	k.s.mu.Lock() // Drain holds it until it has interrupted
	//lint:ignore SA2001 it is only waited for
	k.s.mu.Unlock()
	k.c.Resume()
	if errors.Is(err, wire.ErrInterrupted) {
		return k.lastCall()
	}
	return in, n, err
}

// lastCall is await on a server that is draining. A request that is there
// already is still served, and on a new connection one that is on its way.
func (k *conn) lastCall() (in *wire.Buffer, n int, err error) {
	k.state.Store(drained)
	if k.served > 0 && k.c.Alive() {
		return nil, 0, io.EOF
	}
	k.c.SetTimeout(time.Second)
	return k.c.ReadBuffer()
}

// turns answers the request that the n bytes in a buffer begin, and those that
// were sent with it. It reports whether the connection can be used further.
func (k *conn) turns(in *wire.Buffer, n int) bool {
	t := turnPool.Get().(*turn)
	t.conn, t.c, t.in, t.r, t.w = k, k.c, in, 0, n
	again := true
	for again && t.r < t.w {
		again = t.serve()
	}
	t.release()
	t.stream = stream{}
	t.conn, t.c, t.x, t.limits = nil, nil, nil, nil
	turnPool.Put(t)
	return again
}

var turnPool = sync.Pool{New: func() any { return new(turn) }}

// turn is the serving of requests on one connection while there is any. It is
// the exchanges' Downstream.
type turn struct {
	conn   *conn
	c      *wire.Conn
	limits *Limits
	x      *exchange.Exchange

	in   *wire.Buffer // borrowed while r < w
	r, w int          // in.B[r:w] has been read from the socket and not used

	body   requestBody
	answer answer
	stream stream
}

// release gives the buffer of a turn back.
func (t *turn) release() {
	if t.in != nil {
		t.in.Put()
		t.in = nil
	}
	t.r, t.w = 0, 0
}

// serve answers one request, whose first bytes have been read. It reports
// whether another one may follow on the connection.
func (t *turn) serve() (again bool) {
	t.limits = t.conn.s.Limits.Load()
	t.conn.served++
	x := exchange.Get()
	defer exchange.Put(x)
	t.x = x
	x.Client, x.Down = t.conn.client, t
	x.Times.Start = exchange.Now()
	x.Request.Scheme = "http"
	if x.Client.TLS != nil {
		x.Request.Scheme = "https"
	}
	t.answer.begin()
	t.body.begin(t, 0)

	f, problem, err := t.readHead()
	if err != nil {
		return false // nobody is there to be answered
	}
	if problem == nil && t.limits.Body > 0 && int64(f) > t.limits.Body {
		problem = &bodyTooLarge
	}
	if problem != nil {
		t.refuse(problem)
		return false
	}
	t.body.begin(t, f)
	if f != 0 {
		x.Request.Body = &t.body
	}
	t.answer.closes = t.last()
	if t.r == t.w {
		t.release()
	}

	t.c.SetTimeout(0) // what is read and written sets its own
	t.c.Watch(t, t.limits.HalfClose)
	t.conn.s.Handler(x)
	t.c.Unwatch()
	return t.settle()
}

// last reports whether this request is the connection's last one.
func (t *turn) last() bool {
	n := t.limits.RequestsPerConn
	return ends(&t.x.Request.Header, t.x.Request.Proto) || n > 0 && t.conn.served >= n
}

// ClientGone is called by the sweeper while the handler runs.
func (t *turn) ClientGone() { t.x.Cancel(exchange.ErrClientGone) }

// readHead reads a request's head and parses it. An error means that the
// client went away, or sent nothing, before it was complete.
func (t *turn) readHead() (Framing, *exchange.Problem, error) {
	x := t.x
	seen, skipped := 0, false
	for waited := false; ; waited = true {
		b := t.in.B[t.r:t.w]
		if !skipped && len(b) >= 2 && b[0] == '\r' && b[1] == '\n' {
			// Some clients end a body with an empty line too many; one is
			// passed over (RFC 9112, section 2.2).
			t.r, skipped = t.r+2, true
			b = b[2:]
		}
		if len(b) > 0 && (len(b) > 1 || b[0] != '\r' || skipped) {
			size, err := FindHead(b, seen)
			if err != nil {
				return 0, refusal(err), nil
			}
			if size > 0 && size <= t.limits.HeaderBytes {
				x.Times.Head = x.Times.Start
				if waited {
					x.Times.Head = exchange.Now()
				}
				f, p := ParseRequest(b[:size], &x.Request, t.limits.Headers)
				t.r += size
				return f, p, nil
			}
			seen = len(b)
		}
		if len(b) >= t.limits.HeaderBytes {
			if i := bytes.IndexByte(b, '\n'); i < 0 || i >= t.limits.HeaderBytes {
				return 0, &targetTooLong, nil
			}
			return 0, &headTooLarge, nil
		}
		if !waited {
			t.c.SetTimeout(t.limits.HeaderTimeout) // for all of the head
		}
		if err := t.readMore(t.limits.HeaderBytes); err != nil {
			if errors.Is(err, wire.ErrTimeout) && seen > 0 {
				return 0, &headTimeout, nil
			}
			return 0, nil, err
		}
	}
}

// readMore reads more behind what the buffer holds, and grows it up to most
// bytes when it is full.
func (t *turn) readMore(most int) error {
	if t.w == len(t.in.B) && t.r > 0 {
		t.w = copy(t.in.B, t.in.B[t.r:t.w])
		t.r = 0
	}
	if t.w == len(t.in.B) {
		larger := wire.GetLarge()
		if len(t.in.B) >= len(larger.B) {
			larger.Put()
			larger = &wire.Buffer{B: make([]byte, min(2*len(t.in.B), max(most, len(t.in.B)+1)))}
		}
		copy(larger.B, t.in.B)
		t.in.Put()
		t.in = larger
	}
	n, err := t.c.Read(t.in.B[t.w:])
	t.w += n
	return err
}

// refuse answers a request that no handler sees, and ends the connection.
func (t *turn) refuse(p *exchange.Problem) {
	x := t.x
	x.Fail(p)
	x.Render()
	t.answer.closes = true
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
	if t.conn.s.Refused != nil {
		t.conn.s.Refused(x)
	}
	if err == nil {
		t.linger()
	}
	t.answer.end()
}

// settle brings the connection to where the next request begins, after the
// handler has returned. It reports false when there will be none.
func (t *turn) settle() (again bool) {
	switch {
	case t.stream.t != nil:
		return false // it was upgraded, and has ended
	case !t.answer.finished:
		t.Abort()
		t.answer.end()
		return false
	case t.answer.closes:
		if t.r < t.w || !t.body.ended() {
			t.linger()
		}
		return false
	}
	if err := t.body.drain(); err != nil {
		t.linger()
		return false
	}
	return true
}

// lingerTime is how long a connection that is ended while the client still
// sends is kept.
const lingerTime = 2 * time.Second

// linger ends a connection on which the client may still be sending. Closing
// it at once would answer those bytes with a reset, and a reset can overtake
// the answer (RFC 9112, section 9.6).
func (t *turn) linger() {
	t.release()
	if t.c.CloseWrite() != nil {
		return
	}
	t.c.SetTimeout(lingerTime)
	for {
		b, _, err := t.c.ReadBuffer()
		if err != nil {
			return // the end, the timeout, or a reset: there is no more to do
		}
		b.Put()
	}
}
