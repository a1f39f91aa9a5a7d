package h1

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/wire"
)

// This file is the life of a client's connection, from top to bottom. While
// the connection is idle there is only a conn and a goroutine that waits, with
// a small stack after a while. When bytes come, a turn is borrowed, which has
// everything that serving takes, and is given back when nothing is left to
// answer.

// conn is one client's connection.
type conn struct {
	s      *Server
	c      *wire.Conn
	client *exchange.Client
	ended  func()
	state  atomic.Uint32
	served int           // requests that were begun
	since  time.Duration // when it became idle
	turn   *turn         // what take leaves to finish
}

// The states of a conn.
const (
	busy    = iota
	idle    // waiting for the first byte of a request
	drained // Drain found it idle
)

// quiet is how long a connection may be idle before it goes to sleep. Waking
// costs a few microseconds more than going on.
const quiet = 2 * wire.Tick

// Serve serves a connection until it ends, and closes it. client describes its
// other end.
func (s *Server) Serve(c *wire.Conn, client *exchange.Client) {
	done := make(chan struct{})
	s.Start(c, client, func() { close(done) })
	<-done
}

// Start is Serve on a goroutine of its own. It calls ended when the connection
// has been closed. An idle connection needs less memory than one that a caller
// of Serve waits for.
func (s *Server) Start(c *wire.Conn, client *exchange.Client, ended func()) {
	k := &conn{s: s, c: c, client: client, ended: ended}
	s.enter(k)
	go k.run()
}

// Continue is Start for a connection of which n bytes have been read into a
// buffer, for example to see that they are not the beginning of another
// protocol. The buffer belongs to the server from then on.
func (s *Server) Continue(c *wire.Conn, client *exchange.Client, in *wire.Buffer, n int, ended func()) {
	k := &conn{s: s, c: c, client: client, ended: ended}
	s.enter(k)
	go func() {
		defer k.contain()
		k.begin(in, n)
		if !k.finish() {
			k.close()
			return
		}
		k.run()
	}()
}

// run serves a connection until it ends or becomes quiet.
func (k *conn) run() {
	defer k.contain()
	take := k.take
	for {
		err := k.await(take)
		if errors.Is(err, errQuiet) {
			// Serving has made this goroutine's stack grow, and it would stay
			// so. Another one waits with less.
			go k.sleep()
			return
		}
		if err != nil || !k.finish() {
			k.close()
			return
		}
	}
}

// sleep waits for a quiet connection to have something to do.
func (k *conn) sleep() {
	if d := k.s.Limits.Load().IdleTimeout; d > 0 {
		// What is over already ends at the next tick.
		k.c.SetTimeout(max(d-(k.c.Clock()-k.since), 1))
	} else {
		k.c.SetTimeout(0)
	}
	if err := k.c.WaitReadable(); err != nil && !errors.Is(err, wire.ErrInterrupted) {
		k.close()
		return
	}
	k.rouse()
	k.run()
}

// contain makes a panic the end of this one connection.
func (k *conn) contain() {
	if k.s.Panicked == nil {
		return
	}
	if v := recover(); v != nil {
		k.s.Panicked(v)
		k.close()
	}
}

func (k *conn) close() {
	// What can go wrong with it does not concern anybody any more.
	_ = k.c.Close()
	k.s.leave(k)
	k.ended()
}

// errQuiet says that a connection has nothing to do for a while.
var errQuiet = errors.New("connection is quiet")

// await waits for requests and answers those that come whole. It returns nil
// when take has left a turn that has more to do.
func (k *conn) await(take func(*wire.Buffer, int) bool) error {
	k.idle()
	if !k.s.draining.Load() {
		err := k.c.Each(take)
		if d := k.s.Limits.Load().IdleTimeout; errors.Is(err, wire.ErrTimeout) && (d == 0 || d > quiet) {
			return errQuiet
		}
		if err != nil && !errors.Is(err, wire.ErrInterrupted) {
			return err
		}
	}
	k.rouse()
	if k.turn != nil {
		return nil
	}
	return k.lastCall()
}

// idle says that the connection waits for a request.
func (k *conn) idle() {
	d := k.s.Limits.Load().IdleTimeout
	if d == 0 || d > quiet {
		d = quiet
	}
	k.c.SetTimeout(d)
	k.since = k.c.Clock()
	k.state.Store(idle)
}

// rouse says that it waits no more. Drain may have interrupted it.
func (k *conn) rouse() {
	if k.state.Swap(busy) == drained {
		k.s.mu.Lock() // Drain holds it until it has interrupted
		//lint:ignore SA2001 it is only waited for
		k.s.mu.Unlock()
		k.c.Resume()
	}
}

// take answers what the n bytes in a buffer ask for and reports whether the
// connection is to wait for more. It runs inside wire.Conn.Each, where the next
// request is waited for at the least cost but nothing can be read: a request
// that is not there as a whole, or ends the connection, is left to finish.
func (k *conn) take(in *wire.Buffer, n int) bool {
	t := k.begin(in, n)
	if !k.state.CompareAndSwap(idle, busy) {
		return false // Drain was faster
	}
	for t.inline = true; t.r < t.w; {
		if t.verdict = t.serve(); t.verdict != again {
			return false
		}
	}
	k.end(t)
	k.idle()
	return !k.s.draining.Load()
}

// finish does what a turn still has to do. It reports whether the connection
// can be used further.
func (k *conn) finish() bool {
	t := k.turn
	defer k.end(t)
	for t.inline = false; t.verdict != over && t.r < t.w; {
		t.verdict = t.serve()
	}
	if t.verdict == over && t.lingers {
		t.linger()
	}
	return t.verdict != over
}

// lastCall begins a turn on a server that is draining, for a request that is
// there already, or that may be on its way on a new connection.
func (k *conn) lastCall() error {
	if k.served > 0 && k.c.Alive() {
		return io.EOF
	}
	k.c.SetTimeout(time.Second)
	in, n, err := k.c.ReadBuffer()
	if err != nil {
		return err
	}
	k.begin(in, n)
	return nil
}

func (k *conn) begin(in *wire.Buffer, n int) *turn {
	t := turnPool.Get().(*turn)
	t.conn, t.c, t.in, t.r, t.w = k, k.c, in, 0, n
	k.turn = t
	return t
}

func (k *conn) end(t *turn) {
	t.release()
	t.conn, t.c, t.x, t.limits = nil, nil, nil, nil
	t.verdict, t.lingers, t.began, t.stream = again, false, 0, stream{}
	k.turn = nil
	turnPool.Put(t)
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

	inline  bool // nothing can be read from the socket
	verdict verdict
	lingers bool  // when over: the client may still be sending
	began   int64 // when the first byte of the request at hand came

	body   requestBody
	answer answer
	stream stream
}

// verdict is what becomes of a connection after serve.
type verdict uint8

const (
	again verdict = iota // another request may follow
	later                // the request has to be begun anew where reading is possible
	over                 // the connection ends
)

// release gives the buffer of a turn back.
func (t *turn) release() {
	if t.in != nil {
		t.in.Put()
		t.in = nil
	}
	t.r, t.w = 0, 0
}

// serve answers one request, whose first bytes have been read.
func (t *turn) serve() verdict {
	t.limits = t.conn.s.Limits.Load()
	x := exchange.Get()
	defer exchange.Put(x)
	t.x = x
	x.Client, x.Down = t.conn.client, t
	if t.began == 0 {
		t.began = exchange.Now()
	}
	x.Times.Start = t.began
	x.Request.Scheme = "http"
	if x.Client.TLS != nil {
		x.Request.Scheme = "https"
	}
	t.answer.begin()
	t.body.begin(t, 0)

	start := t.r
	f, problem, err := t.readHead()
	if errors.Is(err, errLater) || problem == nil && t.inline && !t.whole(f) {
		t.r = start
		return later
	}
	t.began = 0
	t.conn.served++
	if err != nil {
		return over // nobody is there to be answered
	}
	if problem == nil && t.limits.Body > 0 && int64(f) > t.limits.Body {
		problem = &bodyTooLarge
	}
	if problem != nil {
		t.refuse(problem)
		return over
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

// errLater says that a head is incomplete where nothing can be read.
var errLater = errors.New("head is not there as a whole")

// whole reports whether all that a request needs from the socket is in the
// buffer.
func (t *turn) whole(f Framing) bool {
	return f >= 0 && int64(f) <= int64(t.w-t.r) && t.x.Request.Upgrade == ""
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
	var s scan
	for waited := false; ; waited = true {
		skip, size, p := s.head(t.in.B[t.r:t.w], t.limits.HeaderBytes)
		t.r += skip
		if p != nil {
			return 0, p, nil
		}
		if size > 0 {
			x.Times.Head = x.Times.Start
			if waited {
				x.Times.Head = exchange.Now()
			}
			head := t.in.B[t.r : t.r+size]
			t.r += size
			f, p := ParseRequest(head, &x.Request, t.limits.Headers)
			return f, p, nil
		}
		if t.inline {
			return 0, nil, errLater
		}
		if !waited {
			t.c.SetTimeout(t.limits.HeaderTimeout) // for all of the head
		}
		if err := t.readMore(t.limits.HeaderBytes); err != nil {
			if errors.Is(err, wire.ErrTimeout) && s.seen > 0 {
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
	t.lingers = err == nil
	t.answer.end()
}

// settle brings the connection to where the next request begins, after the
// handler has returned.
func (t *turn) settle() verdict {
	if t.answer.limited {
		t.c.SetLimit(0)
	}
	switch {
	case t.stream.t != nil:
		return over // it was upgraded, and has ended
	case !t.answer.finished:
		t.Abort()
		t.answer.end()
		return over
	case t.answer.closes:
		t.lingers = t.r < t.w || !t.body.ended()
		return over
	}
	if err := t.body.drain(); err != nil {
		t.lingers = true
		return over
	}
	return again
}

// lingerTime is how long a connection that is ended while the client still
// sends is kept.
const lingerTime = 2 * time.Second

// linger ends a connection on which the client may still be sending. Closing
// it at once would answer those bytes with a reset, and a reset can overtake
// the answer (RFC 9112, section 9.6).
func (t *turn) linger() {
	t.release()
	t.c.SetTimeout(lingerTime) // TLS has something to write
	if t.c.CloseWrite() != nil {
		return
	}
	for {
		b, _, err := t.c.ReadBuffer()
		if err != nil {
			return // the end, the timeout, or a reset: there is no more to do
		}
		b.Put()
	}
}
