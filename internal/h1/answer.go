package h1

import (
	"errors"
	"fmt"
	"io"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/wire"
)

// This file is a turn's side of exchange.Downstream.

// answer is how far the answer to a request has come.
type answer struct {
	out       *wire.Buffer // borrowed while something is gathered
	gathered  []byte       // what is not yet written; usually in out
	framing   Framing
	bodiless  bool  // HEAD, 204 and 304 have no body whatever is written
	chunked   bool  // a chunk has been written
	closes    bool  // the connection ends with this answer
	continued bool  // 100 Continue was sent
	headed    bool  // the head is gathered or written
	limited   bool  // the connection has the limit of the exchange
	finished  bool  // complete and written
	broken    error // writing failed, or the answer was aborted
}

func (a *answer) begin() { *a = answer{} }

// end gives back what was borrowed.
func (a *answer) end() {
	if a.out != nil {
		a.out.Put()
	}
	a.out, a.gathered = nil, nil
}

var (
	errAborted   = errors.New("answer was aborted")
	errTooLong   = errors.New("answer is longer than its Content-Length")
	errTooShort  = errors.New("answer is shorter than its Content-Length")
	errNoUpgrade = errors.New("status 101 outside an upgrade")
)

const continueLine = "HTTP/1.1 100 Continue\r\n\r\n"

// noFields is never changed.
var noFields exchange.Header

// sayContinue sends 100 Continue when the client waits for it and nobody has
// sent it (RFC 9110, section 10.1.1).
func (t *turn) sayContinue() error {
	a, r := &t.answer, &t.x.Request
	// The head is looked at last: another goroutine that has the body must not
	// come that far, and does not, for it gets the body after 100 Continue or
	// a first piece.
	if !r.Expect || a.continued || r.Received > 0 || t.r < t.w || a.headed {
		return nil
	}
	return t.Inform(100, &noFields)
}

// Inform implements exchange.Downstream.
func (t *turn) Inform(status int, h *exchange.Header) error {
	a, r := &t.answer, &t.x.Request
	if r.Proto != exchange.HTTP11 || status == 101 || a.headed {
		return nil
	}
	if status == 100 {
		if !r.Expect || a.continued {
			return nil // it was not asked for, or has been said
		}
		a.continued = true
		if h.Len() == 0 {
			return t.write([]byte(continueLine), nil)
		}
	}
	t.gather()
	a.gathered = appendStatusLine(a.gathered, status)
	a.gathered = AppendFields(a.gathered, h, hopFields)
	a.gathered = append(a.gathered, "\r\n"...)
	return t.Flush()
}

// gather makes sure that there is memory to gather in.
func (t *turn) gather() {
	if a := &t.answer; a.out == nil {
		a.out = wire.GetBuffer()
		a.gathered = a.out.B[:0]
	}
}

// WriteHead implements exchange.Downstream.
func (t *turn) WriteHead(x *exchange.Exchange) error {
	a, r := &t.answer, &x.Response
	if a.broken != nil {
		return a.broken
	}
	if r.Status < 200 {
		t.Abort()
		return errNoUpgrade
	}
	if r.Length < 0 {
		a.framing = Chunked
		if x.Request.Proto == exchange.HTTP10 {
			a.framing = UntilClose
		}
	} else {
		a.framing = Framing(r.Length)
	}
	head := ResponseHead{Status: r.Status, Framing: a.framing, Length: r.Length}
	switch {
	case r.Status == 204:
		head.Bodiless, head.Length = true, exchange.Unknown // RFC 9110, section 8.6
	case r.Status == 304:
		head.Bodiless = true
		if r.Length == 0 {
			head.Length = exchange.Unknown // what GET would have had is not empty
		}
	case x.Request.Method == "HEAD":
		head.Bodiless = true
	}
	a.bodiless = head.Bodiless
	a.closes = a.closes || r.Close || t.conn.s.draining.Load() ||
		a.framing == UntilClose && !a.bodiless || x.Request.Lent || !t.body.short()
	switch {
	case a.closes:
		head.Connection = "close"
	case x.Request.Proto == exchange.HTTP10:
		head.Connection = "keep-alive"
	}
	if !r.Header.Has(exchange.Date) {
		head.Date = t.conn.s.dates.At(t.c.Clock())
	}
	if r.Local {
		head.Server = "gatehouse"
	}
	t.gather()
	a.gathered = AppendResponseHead(a.gathered, &head, &r.Header)
	a.headed = true
	if due := x.Times.Due; due != 0 {
		a.limited = true
		t.c.SetLimit(max(time.Duration(due-exchange.Now()), 1))
	}
	return nil
}

// WriteBody implements exchange.Downstream.
func (t *turn) WriteBody(p []byte) error {
	a := &t.answer
	if a.bodiless || len(p) == 0 {
		return a.broken
	}
	sent := t.x.Response.Sent + int64(len(p))
	switch {
	case a.broken != nil:
		return a.broken
	case a.framing >= 0 && sent > int64(a.framing):
		t.Abort()
		return errTooLong
	case a.framing == Chunked:
		t.gather()
		a.gathered = AppendChunkHead(a.gathered, len(p), !a.chunked)
		a.chunked = true
	}
	t.x.Response.Sent = sent
	if a.out != nil && len(p) <= cap(a.gathered)-len(a.gathered) {
		a.gathered = append(a.gathered, p...)
		return nil
	}
	// What does not fit is written with what was gathered before it, without
	// a copy.
	gathered := a.gathered
	if a.out != nil {
		a.gathered = a.out.B[:0]
	}
	return t.write(gathered, p)
}

// WriteFrom implements exchange.Downstream.
func (t *turn) WriteFrom(x *exchange.Exchange) (readErr, writeErr error) {
	a, body := &t.answer, x.Response.Body
	if a.bodiless {
		return nil, a.broken
	}
	ready, tells := body.(exchange.Ready)
	if raw, ok := body.(RawBody); ok && a.framing != Chunked {
		if readErr, writeErr = t.splice(raw); readErr != nil || writeErr != nil {
			return readErr, writeErr
		}
	}
	for {
		// The end of a counted body follows its last byte at once.
		atEnd := a.framing >= 0 && x.Response.Sent == int64(a.framing)
		if len(a.gathered) > 0 && !atEnd && !(tells && ready.Ready()) {
			if err := t.Flush(); err != nil {
				return nil, err
			}
		}
		p, err := body.Next()
		switch {
		case err == io.EOF:
			return nil, nil
		case err != nil:
			return err, nil
		}
		if err := t.WriteBody(p); err != nil {
			return nil, err
		}
	}
}

// splice moves a body from its connection to the client's inside the kernel,
// when it is long enough for that to pay.
func (t *turn) splice(body RawBody) (readErr, writeErr error) {
	src, buffered, remaining := body.Raw()
	if src == nil || remaining >= 0 && remaining < spliceLeast {
		return nil, nil
	}
	a, r := &t.answer, &t.x.Response
	if a.framing >= 0 && (remaining < 0 || r.Sent+int64(len(buffered))+remaining != int64(a.framing)) {
		return nil, nil // WriteBody will find what is wrong
	}
	gathered := a.gathered
	a.gathered = a.out.B[:0]
	if err := t.write(gathered, buffered); err != nil {
		return nil, err
	}
	r.Sent += int64(len(buffered))
	body.Advance(int64(len(buffered)))
	n, err := wire.Splice(t.c, src, remaining)
	r.Sent += n
	body.Advance(n)
	var failed *wire.WriteError
	switch {
	case errors.As(err, &failed):
		t.failed(failed.Err)
		return nil, a.broken
	case err != nil:
		return body.Broken(err), nil
	}
	return nil, nil
}

// Flush implements exchange.Downstream.
func (t *turn) Flush() error {
	a := &t.answer
	if len(a.gathered) == 0 {
		return a.broken
	}
	gathered := a.gathered
	a.gathered = a.out.B[:0]
	return t.write(gathered, nil)
}

// write writes to the client, who may take the idle timeout for it.
func (t *turn) write(p, q []byte) error {
	a := &t.answer
	if a.broken == nil {
		t.c.SetTimeout(t.limits.IdleTimeout)
		t.failed(t.c.Writev(p, q, nil))
	}
	return a.broken
}

// failed takes note of what became of a write. What a client does not read is
// given up with its connection, and waits nowhere for it.
func (t *turn) failed(err error) {
	if errors.Is(err, wire.ErrTimeout) {
		t.c.Reset()
	}
	t.answer.broken = err
}

// Finish implements exchange.Downstream.
func (t *turn) Finish(x *exchange.Exchange) error {
	a := &t.answer
	defer a.end()
	switch {
	case a.broken != nil:
		return a.broken
	case a.bodiless:
	case a.framing == Chunked:
		t.gather()
		a.gathered = AppendLastChunk(a.gathered, &x.Response.Trailer, !a.chunked)
	case a.framing >= 0 && x.Response.Sent < int64(a.framing):
		t.Abort()
		return fmt.Errorf("%w: %d of %d bytes", errTooShort, x.Response.Sent, a.framing)
	}
	err := t.Flush()
	a.finished = err == nil
	return err
}

// Abort implements exchange.Downstream. A client that counts or reads chunks
// sees the answer end too early, and may use what came. One that reads until
// the connection closes can only tell by a reset.
func (t *turn) Abort() {
	a := &t.answer
	if a.broken != nil || a.finished {
		return
	}
	if a.headed && a.framing != UntilClose {
		// Nobody is told when it fails: the answer is lost anyway.
		_ = t.Flush()
	} else if a.headed {
		t.c.Reset()
	}
	a.broken = errAborted
	a.closes = true
}

// Upgrade implements exchange.Downstream.
func (t *turn) Upgrade(x *exchange.Exchange) (exchange.Stream, error) {
	a := &t.answer
	if x.Request.Upgrade == "" || a.headed {
		t.Abort()
		return nil, errNoUpgrade
	}
	head := ResponseHead{Status: 101, Bodiless: true, Length: exchange.Unknown, Connection: "Upgrade"}
	t.gather()
	a.gathered = AppendResponseHead(a.gathered, &head, &x.Response.Header)
	a.headed, a.closes = true, true
	if err := t.Flush(); err != nil {
		return nil, err
	}
	a.end()
	t.c.Unwatch() // the stream finds out by itself
	t.c.SetTimeout(0)
	t.stream.t = t
	return &t.stream, nil
}

// RawStream is a stream whose connection may be used directly.
type RawStream interface {
	exchange.Stream
	// Raw returns the connection and the bytes that were read from it before
	// the upgrade. They belong to the caller from then on: Read does not
	// return them. The connection outlives the stream's use by nobody.
	Raw() (c *wire.Conn, early []byte)
}

// stream is a connection after an upgrade.
type stream struct{ t *turn }

// Read returns first what the client sent together with its request.
func (s *stream) Read(p []byte) (int, error) {
	t := s.t
	if t.r == t.w {
		return t.c.Read(p)
	}
	n := copy(p, t.in.B[t.r:t.w])
	if t.r += n; t.r == t.w {
		t.release()
	}
	return n, nil
}

func (s *stream) Write(p []byte) (int, error) { return s.t.c.Write(p) }
func (s *stream) CloseWrite() error           { return s.t.c.CloseWrite() }
func (s *stream) Close() error                { return s.t.c.Close() }

// Raw implements RawStream.
func (s *stream) Raw() (c *wire.Conn, early []byte) {
	t := s.t
	if t.r < t.w {
		early = t.in.B[t.r:t.w]
		t.r = t.w
	}
	return t.c, early
}

var (
	_ exchange.Downstream = (*turn)(nil)
	_ RawStream           = (*stream)(nil)
)
