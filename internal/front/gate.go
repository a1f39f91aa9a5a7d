package front

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/h1"
)

// gate is a client's connection as net/http sees it. It lets through what
// h1.Check found in order, one request at a time. In place of a request that
// is refused net/http gets a harmless one, so that the refusal is answered in
// its turn, by the same code as everything else.
type gate struct {
	net.Conn
	e      *std
	client *exchange.Client
	ended  func()

	// What follows belongs to whoever reads: net/http's goroutine, the one it
	// starts to notice that the client went away, or one that has the body.
	// Never are there two at once.
	reading sync.Mutex
	phase   phase
	in      []byte
	r, v, w int // in[r:v] may be read, in[v:w] is not checked yet
	check   h1.Check
	x       *exchange.Exchange
	refusal *exchange.Problem
	anew    []byte // bytes for net/http that are ours: chunks, or in place of a refused head
	chunk   []byte // memory of anew
	err     error  // why there is no more to read
	served  int
	due     int64 // when the answer at hand must have been written, 0 for never; its writer's
	abrupt  bool  // nobody is waited for when the connection is closed

	mu       sync.Mutex // guards what follows
	waiting  bool       // for the first byte of a request
	drained  bool       // no request is waited for any more
	lastCall bool       // but for one that is on its way
	aborted  bool       // whoever reads must stop
	stopped  bool       // whoever reads a body must stop
	givenUp  bool       // what is left of the last body is of no use
	resting  chan struct{}
	now      *adapter // serving the request at hand
	closing  sync.Once
}

// phase is where the reader of a gate stands.
type phase uint8

const (
	beforeHead phase = iota // the next request is waited for
	inBody                  // a head has been read
	behind                  // all of the request has been read, the answer is not finished
	raw                     // the connection was upgraded
)

const (
	gateBuffer = 4 << 10
	lingerTime = 2 * time.Second
	// A new connection may have a request on its way when draining begins. On
	// an old one it would be there already.
	lastCallNew = time.Second
	lastCallOld = 10 * time.Millisecond
)

func newGate(e *std, nc net.Conn, client *exchange.Client, ended func()) *gate {
	return &gate{Conn: nc, e: e, client: client, ended: ended, in: make([]byte, gateBuffer)}
}

// Read implements net.Conn.
func (g *gate) Read(p []byte) (int, error) {
	g.reading.Lock()
	defer g.reading.Unlock()
	for {
		if n := copy(p, g.anew); n > 0 {
			g.anew = g.anew[n:]
			return n, nil
		}
		if g.r < g.v {
			n := copy(p, g.in[g.r:g.v])
			g.r += n
			return n, nil
		}
		if g.err != nil {
			return 0, g.err
		}
		var err error
		switch g.phase {
		case beforeHead:
			err = g.readHead()
		case inBody:
			err = g.readBody()
		case behind:
			err = g.readAhead()
		case raw:
			if g.v = g.w; g.r == g.v {
				return g.Conn.Read(p)
			}
		}
		if err != nil {
			return 0, err
		}
	}
}

// readHead reads and checks the next head.
func (g *gate) readHead() error {
	if g.x == nil {
		g.x = exchange.Get()
		g.x.Client = g.client
		g.x.Request.Scheme = "http"
		if g.client.TLS != nil {
			g.x.Request.Scheme = "https"
		}
		g.check.Begin(g.e.limits.Load(), &g.x.Request)
	}
	limits := g.e.limits.Load()
	idle := exchange.Now()
	for {
		if g.w > g.v && g.x.Times.Start == 0 {
			g.x.Times.Start = exchange.Now()
		}
		skip, size, p := g.check.Head(g.in[g.v:g.w])
		g.v += skip
		g.r = g.v
		if p != nil {
			g.refuse(p)
			return nil
		}
		if size > 0 {
			g.x.Times.Head = exchange.Now()
			g.v += size
			g.phase = inBody
			if g.check.Framing() == 0 {
				g.phase = behind
			}
			return nil
		}
		var err error
		if start := g.x.Times.Start; start == 0 {
			err = g.await(until(idle, limits.IdleTimeout))
		} else {
			err = g.fill(until(start, limits.HeaderTimeout), false)
		}
		if errors.Is(err, errLate) {
			if p := g.check.Late(); p != nil {
				g.refuse(p)
				return nil
			}
			err = io.EOF
		}
		if err != nil {
			return g.fail(err)
		}
	}
}

// refuse has a problem answered in place of the request.
func (g *gate) refuse(p *exchange.Problem) {
	g.refusal = p
	g.phase = behind
	method := "GET "
	if g.x.Request.Method == "HEAD" {
		method = "HEAD "
	}
	g.anew = []byte(method + "/ HTTP/1.1\r\nHost: refused\r\n\r\n")
}

// fail notes why there is no more to read, unless the reader was only told to
// stop.
func (g *gate) fail(err error) error {
	if !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, errStopped) {
		g.err = err
	}
	return err
}

// readBody reads and checks more of a body. Chunks are written anew: net/http
// keeps what it has of a chunk until it has all of it, and a service may be
// waiting for just that. Trailer fields do not pass through it.
func (g *gate) readBody() error {
	for {
		data, taken, ended, p := g.check.Body(g.in[g.v:g.w])
		g.v += taken
		if p != nil {
			g.err = p
		}
		if g.check.Framing() == h1.Chunked {
			g.r = g.v
			g.rechunk(data, ended)
		}
		if ended {
			g.phase = behind
		}
		if taken > 0 || p != nil || ended {
			return nil
		}
		patience, ok := g.check.Patience()
		if !ok {
			g.err = g.check.Late()
			return nil
		}
		before := exchange.Now()
		err := g.fill(until(before, patience), true)
		g.check.Waited(time.Duration(exchange.Now() - before))
		switch {
		case errors.Is(err, errLate):
			err = g.check.Late()
		case errors.Is(err, io.EOF):
			err = g.check.Cut()
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, errStopped):
			err = fmt.Errorf("%w: %w", exchange.ErrClientGone, err)
		}
		if err != nil {
			return g.fail(err)
		}
	}
}

// rechunk has net/http read a piece of a body as one chunk.
func (g *gate) rechunk(data []byte, ended bool) {
	b := g.chunk[:0]
	if len(data) > 0 {
		b = h1.AppendChunkHead(b, len(data), true)
		b = append(b, data...)
		b = append(b, "\r\n"...)
	}
	if ended {
		b = append(b, "0\r\n\r\n"...)
	}
	g.chunk, g.anew = b, b
}

// readAhead is what net/http does while a request is being answered: it waits
// for a byte or an error, and takes an error for a client that has gone. What
// comes is kept, to be looked at in its turn.
func (g *gate) readAhead() error {
	for g.refusal == nil && g.w-g.r < len(g.in) {
		err := g.fill(time.Time{}, false)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return err
		case errors.Is(err, io.EOF):
			// Half-closed: it may still wait for the answer, and have sent
			// another request before. The end can be read again.
			err = g.rest(g.e.limits.Load().HalfClose)
			if errors.Is(err, io.EOF) {
				g.gone()
			}
			return err
		case err != nil:
			g.gone()
			return g.fail(err)
		}
	}
	return g.rest(-1)
}

// gone tells who answers the request that its client has gone.
func (g *gate) gone() {
	g.mu.Lock()
	a := g.now
	g.mu.Unlock()
	if a != nil {
		a.gone()
	}
}

// idle is called by net/http when an answer is finished and the connection
// stays.
func (g *gate) idle() {
	if g.phase != behind {
		g.err = io.EOF // what it has not read is not the next request
		return
	}
	g.phase = beforeHead
}

var (
	errLate    = errors.New("client is late")
	errStopped = errors.New("reading of the body was stopped")
)

// past is a deadline that has always gone by.
var past = time.Unix(1, 0)

// until is a time so long after a reading of the clock, never for 0.
func until(start int64, d time.Duration) time.Time {
	if d == 0 {
		return time.Time{}
	}
	return time.Now().Add(d - time.Duration(exchange.Now()-start))
}

// await is fill for the first byte of a request, which is not waited for when
// the engine drains.
func (g *gate) await(deadline time.Time) error {
	g.mu.Lock()
	g.waiting = true
	g.mu.Unlock()
	for {
		err := g.fill(deadline, false)
		g.mu.Lock()
		again := errors.Is(err, errLate) && g.drained && !g.lastCall
		if again {
			g.lastCall = true
			deadline = time.Now().Add(lastCallOld)
			if g.served == 0 {
				deadline = time.Now().Add(lastCallNew)
			}
		}
		g.waiting = again
		g.mu.Unlock()
		if !again {
			return err
		}
	}
}

// fill reads more behind what the buffer holds. A reader that was told to stop
// gets os.ErrDeadlineExceeded.
func (g *gate) fill(deadline time.Time, body bool) error {
	g.makeRoom()
	for {
		g.mu.Lock()
		if g.waiting && g.drained && !g.lastCall {
			deadline = past
		}
		err := g.told(body)
		if err == nil {
			err = g.Conn.SetReadDeadline(deadline)
		}
		g.mu.Unlock()
		if err != nil {
			return err
		}
		n, err := g.Conn.Read(g.in[g.w:])
		g.w += n
		switch {
		case n > 0:
			return nil
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		case !deadline.IsZero() && !time.Now().Before(deadline):
			g.mu.Lock()
			err = g.told(body)
			g.mu.Unlock()
			if err == nil {
				err = errLate
			}
			return err
		}
		// It was woken for a reason that is looked at above.
	}
}

// told says whether a reader must stop. The caller has g.mu.
func (g *gate) told(body bool) error {
	switch {
	case g.aborted:
		return os.ErrDeadlineExceeded
	case body && g.stopped:
		return errStopped
	case body && g.givenUp:
		return io.EOF
	}
	return nil
}

// stop makes the reader of a body fail, now and later, or ends that.
func (g *gate) stop(on bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped = on; on {
		// Readers of anything else find no reason to stop, and go on.
		_ = g.Conn.SetReadDeadline(past)
	}
}

// makeRoom makes sure that there is room behind g.w.
func (g *gate) makeRoom() {
	if g.w < len(g.in) {
		return
	}
	if g.r > 0 {
		g.w = copy(g.in, g.in[g.r:g.w])
		g.v -= g.r
		g.r = 0
		return
	}
	// The checks bound what they need to see at once.
	larger := make([]byte, 2*len(g.in))
	copy(larger, g.in)
	g.in = larger
}

// rest waits, for ever when d is negative, without reading. It returns the end
// of the connection, or os.ErrDeadlineExceeded when it was told to stop.
func (g *gate) rest(d time.Duration) error {
	g.mu.Lock()
	if g.aborted {
		g.mu.Unlock()
		return os.ErrDeadlineExceeded
	}
	stop := make(chan struct{})
	g.resting = stop
	g.mu.Unlock()
	var over <-chan time.Time
	if d >= 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		over = t.C
	}
	select {
	case <-stop:
		return os.ErrDeadlineExceeded
	case <-over:
		return io.EOF
	}
}

// SetReadDeadline implements net.Conn. net/http stops whoever reads by a
// deadline in the past, and then lets reads happen again; it is given no
// timeouts of its own.
func (g *gate) SetReadDeadline(t time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.aborted = !t.IsZero()
	if !g.aborted {
		return g.Conn.SetReadDeadline(time.Time{})
	}
	g.wake()
	return nil
}

// wake makes whoever reads look at its reasons again. The caller has g.mu.
func (g *gate) wake() {
	// An error means that the connection is closed, and then nobody waits.
	_ = g.Conn.SetReadDeadline(past)
	if g.resting != nil {
		close(g.resting)
		g.resting = nil
	}
}

// SetDeadline implements net.Conn. net/http clears both before it hands over
// an upgraded connection.
func (g *gate) SetDeadline(t time.Time) error {
	return errors.Join(g.SetReadDeadline(t), g.SetWriteDeadline(t))
}

// gatePiece is how much of an answer a client must take in the idle time. TLS
// cannot go on after a write that was late, so that no more is begun at once.
const gatePiece = 16 << 10

// Write implements net.Conn. A client may be slow, but it must not stop.
func (g *gate) Write(p []byte) (n int, err error) {
	for {
		deadline := soonest(until(exchange.Now(), g.e.limits.Load().IdleTimeout), g.due)
		if err := g.SetWriteDeadline(deadline); err != nil {
			return n, err
		}
		m, err := g.Conn.Write(p[n:min(len(p), n+gatePiece)])
		if n += m; err != nil || n == len(p) {
			return n, err
		}
	}
}

// soonest is the nearer of a deadline, which may be zero, and a reading of the
// clock, 0 for none.
func soonest(deadline time.Time, due int64) time.Time {
	if due == 0 {
		return deadline
	}
	if at := until(exchange.Now(), max(time.Duration(due-exchange.Now()), 1)); deadline.IsZero() || at.Before(deadline) {
		return at
	}
	return deadline
}

// CloseWrite says that no more will be written.
func (g *gate) CloseWrite() error {
	if c, ok := g.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}
