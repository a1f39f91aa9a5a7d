package h1

import (
	"errors"
	"fmt"
	"io"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/wire"
)

// RawBody is a body whose bytes may be taken from its connection directly,
// inside the kernel.
type RawBody interface {
	exchange.Body
	// Raw returns the connection that the body comes from, the bytes of it
	// that have been read already, and how many are still in the connection: a
	// negative number means all until it ends. A nil connection means that
	// there is no direct way now.
	Raw() (c *wire.Conn, buffered []byte, remaining int64)
	// Advance says that the next n bytes of the body have been taken:
	// buffered ones first, then those of the connection.
	Advance(n int64)
	// Broken turns an error of reading from the connection into the body's.
	Broken(err error) error
}

const (
	// spliceLeast is how many bytes must be left for splicing to pay.
	spliceLeast = 64 << 10
	// rateGrace is how long a body may be slower than its least rate.
	rateGrace = 5 * time.Second
	// drainMost and drainTime bound what is read of a body after its answer
	// so that the connection can be used again.
	drainMost = 256 << 10
	drainTime = 2 * time.Second
)

// requestBody is the body of the request that a turn is at. Another goroutine
// than the turn's may use it while Request.Lent says so.
type requestBody struct {
	t       *turn
	framing Framing
	left    int64       // bytes to come of a counted body
	chunks  ChunkedBody // of a chunked one
	err     error       // io.EOF at the end
	waited  int64       // nanoseconds that it kept us waiting
	until   int64       // when draining gives up, 0 while it is read in earnest
}

func (b *requestBody) begin(t *turn, f Framing) {
	*b = requestBody{t: t, framing: f, left: int64(f)}
	switch f {
	case 0:
		b.err = io.EOF
	case Chunked:
		b.left = 0
		b.chunks.MaxTrailers = t.limits.Headers
	}
}

// Next returns the next piece of the body.
func (b *requestBody) Next() ([]byte, error) {
	for b.err == nil {
		p, err := b.take()
		if len(p) > 0 {
			if b.err = b.count(p); b.err != nil {
				break
			}
			return p, nil
		}
		if b.err = err; err != nil || b.finished() {
			continue
		}
		if err := b.fill(); err != nil {
			return nil, err
		}
	}
	return nil, b.err
}

// take takes what is there of the body out of the buffer.
func (b *requestBody) take() ([]byte, error) {
	t := b.t
	if t.r == t.w {
		return nil, nil
	}
	if b.framing == Chunked {
		p, n, err := b.chunks.Decode(t.in.B[t.r:t.w], &t.x.Request.Trailer)
		t.r += n
		if err != nil && err != io.EOF {
			err = malformedBody.With(err)
		}
		return p, err
	}
	p := t.in.B[t.r:t.w]
	p = p[:min(int64(len(p)), b.left)]
	t.r += len(p)
	b.left -= int64(len(p))
	return p, nil
}

// finished notes the end of a counted body.
func (b *requestBody) finished() bool {
	if b.framing == Chunked || b.left > 0 {
		return false
	}
	b.err = io.EOF
	return true
}

// count counts a piece, and refuses one that makes the body too long. A
// counted body's length was looked at before.
func (b *requestBody) count(p []byte) error {
	x := b.t.x
	x.Request.Received += int64(len(p))
	if most := b.t.limits.Body; most > 0 && x.Request.Received > most {
		return &bodyTooLarge
	}
	return nil
}

// fill waits for more bytes of the body.
func (b *requestBody) fill() error {
	t := b.t
	if err := t.sayContinue(); err != nil {
		return b.Broken(err)
	}
	patience, ok := b.patience()
	if !ok {
		b.err = &bodyTimeout
		return b.err
	}
	t.c.SetTimeout(patience)
	before := exchange.Now()
	err := b.read()
	b.waited += exchange.Now() - before
	if err != nil {
		return b.Broken(err)
	}
	return nil
}

// read reads more bytes. While it waits for the first of them it holds no
// buffer.
func (b *requestBody) read() (err error) {
	t := b.t
	if t.r < t.w { // of a chunk's size line, or a trailer section
		return t.readMore(wire.LargeBufferSize)
	}
	t.release()
	if b.left < wire.LargeBufferSize {
		t.in, t.w, err = t.c.ReadBuffer()
		return err
	}
	if err := t.c.WaitReadable(); err != nil {
		return err
	}
	t.in = wire.GetLarge()
	t.w, err = t.c.Read(t.in.B)
	return err
}

// patience returns how long the next bytes may take: 0 for ever. It is false
// when they have taken too long already.
func (b *requestBody) patience() (d time.Duration, ok bool) {
	return b.t.limits.patience(b.t.x.Request.Received, b.waited, b.until)
}

// patience is for a body of which so many bytes came, that kept us waiting for
// so many nanoseconds, and that is given up at until, if that is not 0.
func (l *Limits) patience(received, waited, until int64) (d time.Duration, ok bool) {
	d = l.IdleTimeout
	limit := func(left time.Duration) {
		if d == 0 || left < d {
			d = left
		}
	}
	if until != 0 {
		limit(time.Duration(until - exchange.Now()))
	}
	if l.BodyMinRate > 0 {
		pace := time.Duration(float64(received) / float64(l.BodyMinRate) * float64(time.Second))
		limit(max(rateGrace, pace) - time.Duration(waited))
	}
	return d, d > 0 || l.IdleTimeout == 0 && until == 0 && l.BodyMinRate == 0
}

// Broken turns an error of the connection into what the body's reader is told.
// After an interruption the body can still be read; after an error of where it
// was spliced to it cannot, for nobody knows what was on its way.
func (b *requestBody) Broken(err error) error {
	var lost *wire.WriteError
	switch {
	case errors.As(err, &lost):
		b.err = err
	case errors.Is(err, wire.ErrInterrupted):
		return err
	case errors.Is(err, wire.ErrTimeout):
		b.err = bodyTimeout.With(err)
	case err == io.EOF, errors.Is(err, io.ErrUnexpectedEOF):
		b.err = bodyCut.With(io.ErrUnexpectedEOF)
	default:
		b.t.x.Cancel(exchange.ErrClientGone)
		b.err = fmt.Errorf("%w: %w", exchange.ErrClientGone, err)
	}
	return b.err
}

// Ready reports whether Next would return without waiting.
func (b *requestBody) Ready() bool {
	return b.err != nil || b.t.r < b.t.w || b.framing != Chunked && b.left == 0
}

// Interrupt makes Next fail, now or when it is next called, until Close. An
// upstream that needs no more of the body stops its reader with it.
func (b *requestBody) Interrupt() { b.t.c.Interrupt() }

// Close ends the use of the body. What is left of it is read, or not, when the
// answer is finished.
func (b *requestBody) Close() error {
	b.t.c.Resume()
	return nil
}

// Raw implements RawBody.
func (b *requestBody) Raw() (c *wire.Conn, buffered []byte, remaining int64) {
	t := b.t
	if b.err != nil || b.framing == Chunked || t.sayContinue() != nil {
		return nil, nil, 0 // Next will tell
	}
	if t.r < t.w {
		buffered = t.in.B[t.r:t.w]
		buffered = buffered[:min(int64(len(buffered)), b.left)]
	}
	t.c.SetTimeout(t.limits.IdleTimeout)
	t.c.SetPace(t.limits.BodyMinRate, rateGrace)
	return t.c, buffered, b.left - int64(len(buffered))
}

// Advance implements RawBody.
func (b *requestBody) Advance(n int64) {
	b.left -= n
	b.t.x.Request.Received += n
	b.t.r += int(min(n, int64(b.t.w-b.t.r)))
}

// ended reports whether the body has been read to its end.
func (b *requestBody) ended() bool { return b.err == io.EOF || b.framing > 0 && b.left == 0 }

// short reports whether what is left of the body is worth reading so that the
// connection can be used again. A client that waits for 100 Continue may or
// may not send it after the answer: that is settled by ending the connection.
func (b *requestBody) short() bool {
	switch {
	case b.ended():
		return true
	case b.err != nil, b.t.x.Request.Expect && !b.t.answer.continued:
		return false
	}
	return b.left <= drainMost
}

// drain reads what is left of the body.
func (b *requestBody) drain() error {
	if b.ended() {
		return nil
	}
	b.until = exchange.Now() + int64(drainTime)
	most := b.t.x.Request.Received + drainMost
	for b.t.x.Request.Received <= most {
		if _, err := b.Next(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
	return &bodyTooLarge
}

var (
	_ RawBody              = (*requestBody)(nil)
	_ exchange.Ready       = (*requestBody)(nil)
	_ exchange.Interrupter = (*requestBody)(nil)
)
