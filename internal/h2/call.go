package h2

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/net/http2"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/wire"
)

const (
	// continueWait is how long an upstream that was sent an expectation may
	// say nothing before the body is sent anyway (RFC 9110, section 10.1.1).
	continueWait = time.Second
	// inlineMost is the longest body that the exchange's goroutine sends.
	inlineMost = 16 << 10
	// maxInterim is how many interim answers may come before the final one,
	// maxWaiting how many of them may wait to be passed on.
	maxInterim, maxWaiting = 64, 8
)

// call is one exchange on a connection to an upstream.
type call struct {
	stream
	c      *Client
	x      *exchange.Exchange
	limits *ResponseLimits

	// What came of the answer, with the lock held.
	head     exchange.Header
	status   int
	declared int64 // what the answer says of its length
	bodiless bool
	final    bool // the head is there
	heard    bool // something is
	interim  []interim
	interims int

	// Sending.
	touched   bool   // bytes of the body were taken from the exchange
	held      []byte // all of it, when it was taken as a whole
	expecting bool   // the body waits for 100 Continue
	whole     bool   // the request was sent to its end
	wholeAt   int64
	pumping   bool
	pumped    chan struct{} // closed when the pump has ended
	pumpErr   error

	requestBy int64 // when all must be over, 0 for never
	tryBy     int64 // when the answer's head must be there, 0 for never
	body      answerBody
	tunnel    tunnelStream
}

type interim struct {
	status int
	header exchange.Header
}

// RoundTrip sends the exchange's request and reads the head of its answer into
// x.Response, whose Body must be closed. host is the value of :authority. The
// caller has taken a place, which is given back when the body is closed, or on
// an error. Interim answers are passed to x.Down. An answer of status 101, for
// a request with Upgrade, has a Body that is an exchange.Tunnel.
//
// A short body that is there as a whole goes with the head. Any other is sent
// by a second goroutine, so that the answer may come first or at the same
// time; it has stopped when the answer's body has been closed.
func (c *Client) RoundTrip(x *exchange.Exchange, host string) error {
	return c.RoundTripWithin(x, host, c.limits)
}

// RoundTripWithin is RoundTrip with times of its own: FirstByte, Request and
// Try of l hold instead of the connection's.
func (c *Client) RoundTripWithin(x *exchange.Exchange, host string, l *ResponseLimits) error {
	a := &call{c: c, x: x, limits: l}
	a.l = &c.link
	if err := x.Bind(a); err != nil {
		_ = x.Bind(nil)
		c.drop()
		return err
	}
	err := a.ask(host)
	if err == nil {
		err = a.await()
	}
	if err != nil {
		err = a.failed(err)
		a.finish()
		return err
	}
	a.answered()
	return nil
}

// Interrupt wakes whatever the exchange waits for.
func (a *call) Interrupt() {
	a.c.mu.Lock()
	a.interrupted, a.halted = true, true
	a.reading.Broadcast()
	a.writing.Broadcast()
	a.c.changed.Broadcast()
	a.c.mu.Unlock()
}

// ask sends the request, or begins to.
func (a *call) ask(host string) error {
	c, r := a.c, &a.x.Request
	piece, err := a.firstPiece()
	if err != nil {
		return err
	}
	bodiless := r.Length == 0 && r.Upgrade == ""
	inline := bodiless || r.Length > 0 && int64(len(piece)) == r.Length
	expect := r.Expect && !inline && piece == nil
	c.mu.Lock()
	defer c.mu.Unlock()
	a.reading.L, a.writing.L = &c.mu, &c.mu
	if r.Upgrade != "" {
		if err := a.awaitSettings(); err != nil {
			return err
		}
	}
	if err := a.openStream(host, expect, bodiless); err != nil {
		return err
	}
	switch {
	case bodiless:
		a.endLocal()
		a.sentWhole()
	case r.Upgrade != "":
		a.sentWhole()
	case inline:
		err = a.send(piece)
		if err == nil {
			err = a.sendEnd()
		}
		if err != nil && a.failure == nil && !a.final {
			return err
		}
		a.sentWhole() // an upstream that does not want the body may have answered
	case expect:
		a.expecting = true
	default:
		a.startPump(piece)
	}
	c.flush()
	return nil
}

// firstPiece returns what can be had of a short body without waiting.
func (a *call) firstPiece() ([]byte, error) {
	r := &a.x.Request
	if r.Length <= 0 || r.Length > inlineMost {
		return nil, nil
	}
	if ready, ok := r.Body.(exchange.Ready); !ok || !ready.Ready() {
		return nil, nil
	}
	p, err := r.Body.Next()
	switch {
	case err != nil:
		return nil, &RequestError{err}
	case int64(len(p)) > r.Length:
		return nil, &RequestError{errBodyLength}
	}
	a.touched = true
	if int64(len(p)) == r.Length {
		a.held = p
	}
	return p, nil
}

// awaitSettings waits to know whether the upstream takes tunnels.
func (a *call) awaitSettings() error {
	c := a.c
	for !c.settled && c.dead == nil && !a.halted {
		c.control = max(c.control, 1)
		c.flush()
		if !c.settled && c.dead == nil && !a.halted {
			c.changed.Wait() // the deadline of the first SETTINGS ends it
		}
	}
	switch {
	case c.dead != nil:
		return &unsentError{c.dead, true}
	case a.halted:
		return wire.ErrInterrupted
	case !c.peerConnect:
		return ErrNoTunnel
	}
	return nil
}

// openStream opens the stream with the request's head. Streams are numbered in the
// order in which their heads are sent, so nothing may wait in between.
func (a *call) openStream(host string, expect, end bool) error {
	c, r := a.c, &a.x.Request
	if err := a.makeRoom(64 + len(r.Method) + len(host) + 3*(len(r.Path)+len(r.Query)) + fieldsSize(&r.Header)); err != nil {
		if c.dead != nil {
			return &unsentError{err, true}
		}
		return err
	}
	if c.closing || len(c.streams) >= int(min(c.peerStreams, 1<<20)) {
		return &unsentError{errShut, true}
	}
	halted, interrupted := a.halted, a.interrupted
	a.begin(&c.link, c.nextID, a)
	a.head, c.spare = c.spare, exchange.Header{}
	a.halted, a.interrupted, a.bothWays = halted, interrupted, true
	c.nextID += 2
	now := exchange.Now()
	a.x.Times.Sent = now
	a.moved = now
	if d := a.limits.Request; d > 0 {
		a.requestBy = now + int64(d)
		a.x.Times.Due = a.requestBy
	}
	if d := a.limits.Try; d > 0 {
		a.tryBy = now + int64(d)
	}
	a.putHead(end, func(b []byte) []byte { return a.appendHead(b, host, expect) })
	return nil
}

// appendHead appends the request's header block. No byte of the request can
// break out of its place.
func (a *call) appendHead(b []byte, host string, expect bool) []byte {
	r := &a.x.Request
	switch {
	case r.Upgrade != "":
		b = appendText(appendLiteral(b, staticMethod), "CONNECT")
		b = appendNamed(b, ":protocol", r.Upgrade)
	case r.Method == "GET":
		b = appendIndexed(b, staticMethod)
	case r.Method == "POST":
		b = appendIndexed(b, staticMethod+1)
	default:
		b = appendText(appendLiteral(b, staticMethod), r.Method)
	}
	if a.c.scheme == "https" {
		b = appendIndexed(b, staticHTTPS)
	} else {
		b = appendIndexed(b, staticHTTP)
	}
	b = appendValue(appendLiteral(b, staticAuthority), host)
	if r.Path == "/" && !r.HasQuery {
		b = appendIndexed(b, staticPath)
	} else {
		path := make([]byte, 0, 256)
		path = exchange.AppendTarget(path, r.Path)
		if r.HasQuery {
			path = exchange.AppendTarget(append(path, '?'), r.Query)
		}
		b = append(appendInt(appendLiteral(b, staticPath), 7, 0, len(path)), path...)
	}
	skip := uint64(hopFields)
	if r.Upgrade != "" {
		skip |= 1 << exchange.SecWebSocketKey // it does not exist in HTTP/2: RFC 8441, section 5
	}
	b = appendFields(b, &r.Header, skip)
	if r.Header.Has(exchange.TE) && exchange.HasToken(r.Header.Known(exchange.TE), "trailers") {
		b = appendNamed(b, "te", "trailers")
	}
	if r.Length > 0 || r.Length == 0 && bodyUsual(r.Method) {
		b = appendContentLength(b, r.Length)
	}
	if expect {
		b = appendText(appendLiteral(b, int(staticName[exchange.Expect])), "100-continue")
	}
	return b
}

func bodyUsual(method string) bool {
	return method == "POST" || method == "PUT" || method == "PATCH"
}

// sentWhole notes that nothing more is to be sent.
func (a *call) sentWhole() {
	a.whole = true
	a.wholeAt = exchange.Now()
}

// hear takes a head of the answer, with the lock held.
func (a *call) hear(b *fieldBlock, ended bool) error {
	a.heard = true
	method := a.x.Request.Method
	if a.x.Request.Upgrade != "" {
		method = "CONNECT"
	}
	status, length, bodiless, err := b.response(method, ended)
	if err != nil {
		return err
	}
	a.reading.Broadcast()
	if status < 200 {
		if a.interims++; a.interims > maxInterim || len(a.interim) == maxWaiting {
			return Malformed("too many interim answers")
		}
		a.interim = append(a.interim, interim{status, a.head})
		a.head = exchange.Header{}
		return nil
	}
	a.final = true
	a.status, a.declared, a.bodiless = status, length, bodiless
	if a.length = length; bodiless {
		a.length = exchange.Unknown
	}
	return nil
}

// await waits for the head of the answer, and passes on what comes before it.
func (a *call) await() error {
	c := a.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case a.interrupted:
			return wire.ErrInterrupted
		case len(a.interim) > 0:
			if err := a.inform(); err != nil {
				return err
			}
			continue
		case a.final:
			return nil
		case a.failure != nil:
			return a.failure
		case hopeless(a.pumpErr):
			return a.pumpErr
		}
		a.readBy = a.patience()
		err := a.awaitRead()
		switch {
		case err == nil:
		case a.expecting && !a.over(exchange.Now()):
			if err := a.goOn(); err != nil {
				return err
			}
		case a.final || a.failure != nil:
		default:
			c.probe()
			return wire.ErrTimeout
		}
	}
}

// over reports whether the time of the exchange, or of this attempt, has passed.
func (a *call) over(now int64) bool {
	return a.requestBy != 0 && now >= a.requestBy || a.tryBy != 0 && now >= a.tryBy
}

// patience returns until when the head of the answer is waited for.
func (a *call) patience() int64 {
	at := a.requestBy
	limit := func(since int64, d time.Duration) {
		if t := since + int64(d); d > 0 && (at == 0 || t < at) {
			at = t
		}
	}
	if a.tryBy != 0 && (at == 0 || a.tryBy < at) {
		at = a.tryBy
	}
	switch {
	case a.expecting:
		limit(a.moved, continueWait)
	case a.whole:
		limit(a.wholeAt, a.limits.FirstByte)
	}
	return at
}

// inform passes an interim answer on. The one that the body waits for lets it
// go.
func (a *call) inform() error {
	next := a.interim[0]
	a.interim = append(a.interim[:0], a.interim[1:]...)
	a.c.mu.Unlock()
	err := a.x.Down.Inform(next.status, &next.header)
	a.c.mu.Lock()
	if err != nil {
		return fmt.Errorf("%w: %w", exchange.ErrClientGone, err)
	}
	if next.status == 100 && a.expecting {
		a.expecting = false
		a.startPump(nil)
	}
	return nil
}

// goOn asks for a body that the upstream did not ask for in time.
func (a *call) goOn() error {
	a.expecting = false
	a.c.mu.Unlock()
	err := a.x.Down.Inform(100, &noFields)
	a.c.mu.Lock()
	if err != nil {
		return fmt.Errorf("%w: %w", exchange.ErrClientGone, err)
	}
	a.startPump(nil)
	return nil
}

// failed says what an error means while there is no answer, and whether the
// request is still there to be sent again.
func (a *call) failed(err error) error {
	c, x := a.c, a.x
	if errors.Is(err, wire.ErrInterrupted) {
		if reason := x.Canceled(); reason != nil {
			return reason
		}
	}
	var malformed Malformed
	var request *RequestError
	var unsent *unsentError
	switch {
	case errors.As(err, &unsent):
		a.giveBack()
		return err
	case errors.As(err, &malformed), errors.As(err, &request), errors.Is(err, wire.ErrTimeout),
		errors.Is(err, wire.ErrInterrupted), errors.Is(err, exchange.ErrClientGone),
		errors.Is(err, ErrNoTunnel), x.Canceled() != nil:
		return err
	}
	c.mu.Lock()
	heard := a.heard
	c.mu.Unlock()
	var reset resetError
	refused := errors.As(err, &reset) && reset.remote && reset.code == http2.ErrCodeRefusedStream
	broken := !errors.As(err, &reset)
	if !heard && (refused || broken) && (!a.touched || a.held != nil) {
		a.giveBack()
		return &unsentError{err, refused}
	}
	return lost(err)
}

// giveBack gives a body that was taken back to the exchange.
func (a *call) giveBack() {
	if a.held != nil {
		a.x.Request.Body = exchange.Bytes(a.held)
	}
}

// answered begins the answer's body.
func (a *call) answered() {
	c, x := a.c, a.x
	x.Times.FirstByte = exchange.Now()
	r := &x.Response
	c.mu.Lock()
	r.Status, r.Length = a.status, a.declared
	r.Header, a.head = a.head, r.Header
	if a.stream.ended && !a.bodiless && a.declared < 0 && a.got == 0 && a.trailer.Len() == 0 {
		r.Length = 0
	}
	x.Request.Lent = a.pumping && !a.whole
	c.mu.Unlock()
	if x.Request.Upgrade != "" && r.Status/100 == 2 {
		a.tunnelled()
		return
	}
	a.body.a = a
	r.Body = &a.body
}

// finish ends the exchange's use of the connection. It waits for the pump,
// which is soon over.
func (a *call) finish() {
	c, x := a.c, a.x
	c.mu.Lock()
	a.halted = true
	a.writing.Broadcast()
	pumping := a.pumping
	if a.open {
		a.resetAs(http2.ErrCodeCancel, errDone)
	}
	c.flush()
	c.mu.Unlock()
	if a.pumped != nil {
		body := x.Request.Body
		if i, ok := body.(exchange.Interrupter); ok && pumping {
			i.Interrupt()
		}
		<-a.pumped
		if pumping {
			// It ends the interruption and cannot fail.
			_ = body.Close()
		}
	}
	x.Request.Lent = false
	x.Times.Due = 0
	// What Cancel says from here on does not concern this stream.
	_ = x.Bind(nil)
	c.mu.Lock()
	a.discard()
	if a.head.Reset(); a.final {
		c.spare = a.head // that of the exchange, which has the answer's now
	}
	c.mu.Unlock()
	c.drop()
}
