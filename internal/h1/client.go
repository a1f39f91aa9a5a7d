package h1

import (
	"errors"
	"fmt"
	"io"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/wire"
)

// This file is the life of a connection to an upstream: one request, one
// answer, and again.

// ResponseLimits bounds what an upstream may answer and how slowly. A zero
// duration is no limit.
type ResponseLimits struct {
	HeaderBytes int           // most bytes of a head, its status line included
	Headers     int           // most field lines of a head or trailer section
	FirstByte   time.Duration // from the request sent whole to the answer's head
	Request     time.Duration // from the first byte sent to the last one received
	Try         time.Duration // from the first byte sent to the answer's head
	Idle        time.Duration // without progress while a body goes either way
}

const (
	// continueWait is how long an upstream that was sent an expectation may
	// say nothing before the body is sent anyway (RFC 9110, section 10.1.1).
	continueWait = time.Second
	// inlineMost is the longest body that is written together with its head.
	inlineMost = 64 << 10
	// maxInterim is how many interim answers may come before the final one.
	maxInterim = 64
)

var (
	// ErrNoAnswer says that the connection ended or broke before the head of
	// the answer was there.
	ErrNoAnswer = errors.New("connection ended before the answer")
	// ErrCut says that the connection ended before the answer's framing did.
	ErrCut = errors.New("answer ended before its framing said so")
	// ErrHeld says that the time for the whole answer passed, and that most of
	// it was spent waiting for who receives the body.
	ErrHeld = errors.New("answer was taken too slowly")

	errBodyLength = errors.New("request body is not as long as its length says")
)

// RequestError is why a request could not be sent whole: its own body failed,
// not the upstream.
type RequestError struct{ Err error }

func (e *RequestError) Error() string { return "request body: " + e.Err.Error() }

// Unwrap returns the body's error.
func (e *RequestError) Unwrap() error { return e.Err }

// Owner is told when an exchange has no more use of its connection.
type Owner interface {
	// Free says that the connection may carry the next request, or that it
	// must be closed. It is called once for each RoundTrip.
	Free(reusable bool)
}

// Client is one connection to an upstream. It serves one exchange at a time,
// on the exchange's own goroutine.
type Client struct {
	conn   *wire.Conn
	limits *ResponseLimits
	owner  Owner

	x    *exchange.Exchange // nil between two exchanges
	buf  *wire.Buffer       // borrowed while bytes are in it, or may come
	r, w int                // buf.B[r:w] was read and not used

	began     time.Duration // when the request was begun, on the connection's clock
	heard     bool          // a byte of the answer came
	expecting bool          // the body waits for 100 Continue
	closes    bool          // the connection ends with this exchange
	held      []byte        // the request's body, when it was written with its head

	body responseBody
	pump pump
}

// NewClient returns a client over a connection that nothing was sent on.
func NewClient(c *wire.Conn, l *ResponseLimits, o Owner) *Client {
	return &Client{conn: c, limits: l, owner: o}
}

// SetLimits changes the limits, from the next RoundTrip on.
func (c *Client) SetLimits(l *ResponseLimits) { c.limits = l }

// BodyError returns why the body of the last answer broke off, or nil. The
// owner may ask when it is told that the connection is free.
func (c *Client) BodyError() error {
	if c.body.err == io.EOF {
		return nil
	}
	return c.body.err
}

// Alive reports whether an idle connection is open and has no byte waiting,
// which would be taken for the next answer.
func (c *Client) Alive() bool { return c.conn.Alive() }

// Shut closes the connection while no exchange has it.
func (c *Client) Shut() error { return c.conn.Close() }

// RoundTrip sends the exchange's request and reads the head of its answer into
// x.Response, whose Body must be closed. host is the value of the Host field;
// last asks the upstream to end the connection. Interim answers are passed to
// x.Down. An answer of status 101 has no Body: Tunnel gives the connection.
//
// A body that is in memory as a whole goes with the head. Any other is sent by
// a second goroutine, so that the answer may come first or at the same time;
// it has stopped when the answer's body has been closed.
//
// Errors are ErrNoAnswer, wire.ErrTimeout, a Malformed, a *RequestError, or the
// reason for which x was cancelled. After an error the caller calls Close.
func (c *Client) RoundTrip(x *exchange.Exchange, host string, last bool) error {
	c.x = x
	c.r, c.w = 0, 0
	c.heard, c.expecting, c.closes, c.held, c.body.err = false, false, last, nil, nil
	if err := x.Bind(c.conn); err != nil {
		return err
	}
	limit := c.limits.Request
	if t := c.limits.Try; t > 0 {
		c.began = c.conn.Clock()
		if limit == 0 || t < limit {
			limit = t
		}
	}
	c.conn.SetLimit(limit)
	if d := c.limits.Request; d > 0 {
		x.Times.Due = exchange.Now() + int64(d)
	}
	if err := c.ask(host, last); err != nil {
		return c.failed(err)
	}
	if err := c.hear(); err != nil {
		return c.failed(err)
	}
	return nil
}

// ask writes the request, or begins to, and reads the first bytes that come
// back.
func (c *Client) ask(host string, last bool) error {
	r := &c.x.Request
	piece, err := firstPiece(r)
	if err != nil {
		return err
	}
	whole := r.Length == int64(len(piece))
	expect := r.Expect && !whole && piece == nil
	c.buf = wire.GetBuffer()
	authority := r.Authority
	r.Authority = host
	head := AppendRequestHead(c.buf.B[:0], r, expect, last)
	r.Authority = authority
	c.x.Times.Sent = exchange.Now()
	if !whole {
		return c.askInParts(head, piece, expect)
	}
	c.held = piece
	c.conn.SetTimeout(c.limits.FirstByte)
	if len(piece) <= cap(head)-len(head) {
		c.w, err = c.conn.WriteRead(append(head, piece...), c.buf.B)
		return err
	}
	if err := c.conn.Writev(head, piece, nil); err != nil {
		return err
	}
	c.conn.SetTimeout(c.limits.FirstByte)
	return c.read()
}

// firstPiece returns what can be had of the body without waiting and without
// taking it from a connection that could be spliced.
func firstPiece(r *exchange.Request) ([]byte, error) {
	if r.Length == 0 {
		return nil, nil
	}
	if ready, ok := r.Body.(exchange.Ready); !ok || !ready.Ready() || r.Length > inlineMost || r.Length < 0 {
		return nil, nil
	}
	p, err := r.Body.Next()
	switch {
	case err != nil:
		return nil, &RequestError{err}
	case int64(len(p)) > r.Length:
		return nil, &RequestError{errBodyLength}
	}
	return p, nil
}

// askInParts writes the head with the beginning of the body, and leaves the
// rest to the pump.
func (c *Client) askInParts(head, piece []byte, expect bool) error {
	c.conn.SetTimeout(c.limits.Idle)
	if err := c.conn.Writev(head, piece, nil); err != nil {
		return err
	}
	c.pump.sent = int64(len(piece))
	if c.expecting = expect; expect {
		c.conn.SetTimeout(continueWait)
	} else {
		c.pump.start(c)
	}
	return c.read()
}

// read reads more of the answer's head. A body that nobody asked for in time
// is asked for here, so that only this goroutine writes to the client.
func (c *Client) read() error {
	for {
		n, err := c.conn.Read(c.buf.B[c.w:])
		c.w += n
		if !c.expecting || !errors.Is(err, wire.ErrTimeout) || c.conn.Limited() {
			return err
		}
		if err := c.x.Down.Inform(100, &noFields); err != nil {
			return fmt.Errorf("%w: %w", exchange.ErrClientGone, err)
		}
		c.expecting = false
		c.pump.start(c)
	}
}

// hear reads the answer's head, and passes on what comes before it.
func (c *Client) hear() error {
	r := &c.x.Response
	for interim, seen := 0, 0; ; {
		b := c.buf.B[c.r:c.w]
		size, err := c.findHead(b, seen)
		if err != nil {
			return err
		}
		if size == 0 {
			seen = len(b)
			c.makeRoom(c.limits.HeaderBytes)
			if err := c.read(); err != nil {
				return err
			}
			continue
		}
		f, closes, err := ParseResponse(b[:size], r, c.x.Request.Method, c.limits.Headers)
		if err != nil {
			return err
		}
		c.r += size
		if r.Status >= 200 {
			c.closes = c.closes || closes
			c.answered(f)
			return nil
		}
		if r.Status == 101 {
			c.closes = true
			return switched(c.x)
		}
		if interim++; interim > maxInterim {
			return Malformed("too many interim answers")
		}
		if err := c.interim(r); err != nil {
			return err
		}
		r.Header.Reset()
		seen = 0
	}
}

// findHead is FindHead within the limits of this connection.
func (c *Client) findHead(b []byte, seen int) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	c.heard = true
	size, err := FindHead(b, seen)
	if err != nil {
		return 0, err
	}
	if most := c.limits.HeaderBytes; size > most || size == 0 && len(b) >= most {
		return 0, Malformed("head is too large")
	}
	return size, nil
}

// interim passes an interim answer on. The one that the body waits for lets it
// go.
func (c *Client) interim(r *exchange.Response) error {
	if err := c.x.Down.Inform(r.Status, &r.Header); err != nil {
		return fmt.Errorf("%w: %w", exchange.ErrClientGone, err)
	}
	if r.Status == 100 && c.expecting {
		c.expecting = false
		c.pump.start(c)
	}
	return nil
}

// switched checks that an upstream which switches protocols was asked to, and
// to which one (RFC 9110, section 15.2.2).
func switched(x *exchange.Exchange) error {
	asked, got := x.Request.Upgrade, x.Response.Header.Known(exchange.Upgrade)
	if asked == "" {
		return Malformed("status 101 that was not asked for")
	}
	n := 0
	for t := range exchange.Tokens(got) {
		if n++; !exchange.HasToken(asked, t) {
			return Malformed("upstream switches to a protocol that was not asked for")
		}
	}
	if n == 0 {
		return Malformed("status 101 without Upgrade")
	}
	x.Times.FirstByte = exchange.Now()
	return nil
}

// answered begins the answer's body.
func (c *Client) answered(f Framing) {
	c.x.Times.FirstByte = exchange.Now()
	if c.limits.Try > 0 { // it is over; what is left of the whole begins
		left := c.limits.Request
		if left > 0 {
			left = max(left-(c.conn.Clock()-c.began), 1)
		}
		c.conn.SetLimit(left)
	}
	c.body.begin(c, f)
	c.x.Response.Body = &c.body
	if c.expecting {
		// The upstream may still wait for the body that it will not get.
		c.closes = true
	}
	c.pump.answered(&c.x.Request)
	if c.r == c.w {
		c.release()
	}
}

// makeRoom lets more be read behind what the buffer holds. It grows up to most
// bytes.
func (c *Client) makeRoom(most int) {
	if c.r == c.w {
		c.r, c.w = 0, 0
	}
	if c.w < len(c.buf.B) {
		return
	}
	if c.r > 0 {
		c.w = copy(c.buf.B, c.buf.B[c.r:c.w])
		c.r = 0
		return
	}
	larger := wire.GetLarge()
	if len(c.buf.B) >= len(larger.B) {
		larger.Put()
		larger = &wire.Buffer{B: make([]byte, min(2*len(c.buf.B), max(most, len(c.buf.B)+1)))}
	}
	copy(larger.B, c.buf.B)
	c.buf.Put()
	c.buf = larger
}

// release gives the buffer back.
func (c *Client) release() {
	if c.buf != nil {
		c.buf.Put()
		c.buf = nil
	}
	c.r, c.w = 0, 0
}

// failed says what an error means while there is no answer.
func (c *Client) failed(err error) error {
	err = c.cause(err)
	var malformed Malformed
	var request *RequestError
	if errors.As(err, &malformed) || errors.As(err, &request) ||
		errors.Is(err, wire.ErrTimeout) || errors.Is(err, wire.ErrInterrupted) ||
		errors.Is(err, exchange.ErrClientGone) || c.x.Canceled() != nil {
		return err
	}
	return fmt.Errorf("%w: %w", ErrNoAnswer, err)
}

// cause looks behind an interruption or a timeout: the exchange was cancelled,
// or the request's body failed.
func (c *Client) cause(err error) error {
	interrupted := errors.Is(err, wire.ErrInterrupted)
	if !interrupted && !errors.Is(err, wire.ErrTimeout) {
		return err
	}
	if interrupted {
		if reason := c.x.Canceled(); reason != nil {
			return reason
		}
	}
	if failure := c.pump.failure(!interrupted); failure != nil {
		return failure
	}
	return err
}

// Unsent reports whether the request of a RoundTrip that failed with err may
// be sent on another connection as far as its bytes are concerned: nothing of
// an answer came, and its body was not touched or is given back to x. Whether
// sending it twice does harm is for the caller to know.
func (c *Client) Unsent(err error) bool {
	if c.heard || c.pump.started() || !errors.Is(err, ErrNoAnswer) {
		return false
	}
	if c.held != nil {
		c.x.Request.Body = exchange.Bytes(c.held)
	}
	return true
}

// Tunnel returns the connection after status 101, with the bytes that followed
// the head. They are valid until Close.
func (c *Client) Tunnel() (conn *wire.Conn, early []byte) {
	c.conn.SetLimit(0)
	if c.r < c.w {
		early = c.buf.B[c.r:c.w]
	}
	return c.conn, early
}

// Close ends an exchange whose answer has no body to close: one that failed,
// or became a tunnel.
func (c *Client) Close() { c.end(false) }

// end lets go of the exchange. It waits for the pump, which is soon over.
func (c *Client) end(complete bool) {
	if c.x == nil {
		return
	}
	sent := c.pump.stop()
	c.x.Request.Lent = false
	c.x.Times.Due = 0
	// What Cancel says from here on does not concern this connection.
	_ = c.x.Bind(nil)
	reusable := complete && sent && !c.closes && c.r == c.w
	c.x, c.held = nil, nil
	c.release()
	if reusable {
		c.conn.SetLimit(0)
		c.conn.SetTimeout(0)
	}
	c.owner.Free(reusable)
}
