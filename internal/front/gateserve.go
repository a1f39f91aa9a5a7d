package front

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/h1"
)

// This file is the other side of a gate: what net/http calls to have a request
// served, and to end the connection.

// ServeHTTP implements http.Handler.
func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := g.x
	g.x = nil
	g.served++
	g.due = 0
	most := g.e.limits.Load().RequestsPerConn
	a := newAdapter(x, w, r)
	a.closes = r.Close || most > 0 && g.served >= most
	a.broken, a.stop, a.reset, a.draining = g.broken, g.stop, g.reset, g.e.isDraining
	a.limit = func(due int64) { g.due = due }
	g.mu.Lock()
	g.now = a
	g.mu.Unlock()
	p := g.refusal
	if p == nil {
		p = doubt(x, r)
	}
	if p != nil {
		a.refuse(p, g.e.o.Refused)
	} else {
		g.e.o.Handler(x)
	}
	g.mu.Lock()
	g.now = nil
	g.mu.Unlock()
	failed := a.end()
	exchange.Put(x)
	switch {
	case failed:
		g.abrupt = true
		panic(http.ErrAbortHandler) // net/http then ends the connection, and nothing else
	case a.stream.Conn != nil:
		_ = g.Close()
	case a.body.ended():
	case a.closes:
		g.giveUp()
	case !g.drainBody(r.Body):
		panic(http.ErrAbortHandler) // the answer is complete, and has been sent
	}
}

// giveUp has net/http find the end of the connection instead of what is left
// of a body.
func (g *gate) giveUp() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.givenUp = true
}

// drainBody reads what is left of a body, so that the connection can be used
// again. net/http must not do that by itself: it would then look out for the
// client while it reads the next request.
func (g *gate) drainBody(b io.Reader) bool {
	g.reading.Lock()
	g.check.GiveUp()
	g.reading.Unlock()
	n, err := io.CopyN(io.Discard, b, drainMost+1)
	return errors.Is(err, io.EOF) && n <= drainMost
}

// doubt compares the two readings of a head, that of h1 and that of net/http.
// Where they differ nobody knows what the client meant.
func doubt(x *exchange.Exchange, r *http.Request) *exchange.Problem {
	q := &x.Request
	if r.Method == q.Method && r.ContentLength == q.Length && exchange.EqualFold(r.Host, q.Authority) {
		return nil
	}
	return h1.Refuse("net/http reads the head in another way")
}

// broken turns net/http's error of reading a body into the reason.
func (g *gate) broken(err error) error {
	g.reading.Lock()
	defer g.reading.Unlock()
	if g.err != nil {
		return g.err
	}
	return h1.Refuse("net/http does not read the body: " + err.Error())
}

// reset makes Close reset the connection. TLS must not say that it has ended:
// the socket below it is closed at once.
func (g *gate) reset() {
	nc := socketOf(g.Conn)
	noLinger(nc)
	if nc != g.Conn {
		_ = nc.Close()
	}
	g.abrupt = true
}

// socketOf returns what lies below TLS, or the connection itself.
func socketOf(nc net.Conn) net.Conn {
	if t, ok := nc.(*tls.Conn); ok {
		return t.NetConn()
	}
	return nc
}

// noLinger makes the close of a socket a reset.
func noLinger(nc net.Conn) {
	if t, ok := nc.(*net.TCPConn); ok {
		// Without it the close is an ordinary one; it is still a close.
		_ = t.SetLinger(0)
	}
}

// upgraded makes the gate an ordinary connection.
func (g *gate) upgraded() {
	g.reading.Lock()
	g.phase = raw
	g.reading.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.aborted = false
}

// drain ends the connection when it is idle, and otherwise after its answer.
func (g *gate) drain() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.drained = true
	if g.waiting && !g.lastCall {
		_ = g.Conn.SetReadDeadline(past)
	}
}

// cut ends the connection, whatever it is at. net/http closes it soon after.
func (g *gate) cut() {
	nc := socketOf(g.Conn)
	noLinger(nc)
	_ = nc.Close()
	g.mu.Lock()
	a := g.now
	g.wake()
	g.mu.Unlock()
	if a != nil {
		a.gone()
	}
}

// Close implements net.Conn.
func (g *gate) Close() error {
	g.closing.Do(func() {
		g.mu.Lock()
		g.aborted = true
		g.wake()
		g.mu.Unlock()
		g.reading.Lock() // who looks out for the client has stopped
		defer g.reading.Unlock()
		if x := g.x; x != nil {
			if g.phase != beforeHead && g.refusal == nil && g.e.o.Refused != nil {
				// net/http answered by itself, and in its own words.
				x.Fail(h1.Refuse("net/http does not read the head"))
				x.Response.Status = x.Problem.Status
				x.Times.End = exchange.Now()
				g.e.o.Refused(x)
			}
			g.x = nil
			exchange.Put(x)
		}
		if !g.abrupt && g.phase != raw && (g.refusal != nil || g.phase == inBody || g.r < g.w) {
			g.linger()
		}
		// What can go wrong with it does not concern anybody any more.
		_ = g.Conn.Close()
		g.e.leave(g)
		g.ended()
	})
	return nil
}

// linger ends a connection on which the client may still be sending. Closing
// it at once would answer those bytes with a reset, and a reset can overtake
// the answer (RFC 9112, section 9.6).
func (g *gate) linger() {
	if g.CloseWrite() != nil || g.Conn.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return
	}
	for {
		if _, err := g.Conn.Read(g.in); err != nil {
			return // the end, the timeout, or a reset: there is no more to do
		}
	}
}
