package h1

import (
	"errors"
	"io"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/wire"
)

// responseBody is the body of an upstream's answer.
type responseBody struct {
	c       *Client
	framing Framing
	left    int64       // bytes to come of a counted body
	chunks  ChunkedBody // of a chunked one
	ahead   []byte      // a piece that Ready came upon
	err     error       // io.EOF at the end
	full    bool        // the last read filled its buffer

	gave int64 // when a piece was given away that is not known to be passed on, else 0
	held int64 // how long no piece was asked for; what Splice was held is to be added
}

func (b *responseBody) begin(c *Client, f Framing) {
	*b = responseBody{c: c, framing: f, left: int64(f), held: -int64(c.conn.Held())}
	switch f {
	case 0:
		b.err = io.EOF
	case Chunked, UntilClose:
		b.left = 0
		b.chunks.MaxTrailers = c.limits.Headers
	}
}

// Next returns the next piece of the body.
func (b *responseBody) Next() ([]byte, error) {
	b.back()
	for {
		if p := b.take(); p != nil {
			if b.err == nil {
				b.gave = exchange.Now()
			}
			return p, nil
		}
		if b.err != nil {
			return nil, b.err
		}
		b.fill()
	}
}

// back takes note that a piece that was given away was passed on.
func (b *responseBody) back() {
	if b.gave != 0 {
		b.held += exchange.Now() - b.gave
		b.gave = 0
	}
}

// Blame returns how an answer ended, of which all had to be there by due, 0 for
// never. When that time has passed, whoever noticed it, it is a timeout of the
// upstream only if more of the time since the head was spent waiting for the
// upstream than for who receives the body; that was held, and else the error is
// ErrHeld. Errors of other sorts stay as they are.
func Blame(err error, firstByte, due, held int64) error {
	now := exchange.Now()
	switch {
	case err != nil && !errors.Is(err, wire.ErrTimeout), due == 0, now < due:
		return err
	case 2*held > now-firstByte:
		return ErrHeld
	}
	return wire.ErrTimeout
}

// take takes what is there of the body out of the buffer, or nil.
func (b *responseBody) take() []byte {
	if p := b.ahead; p != nil {
		b.ahead = nil
		return p
	}
	c := b.c
	for c.r < c.w && b.err == nil {
		p := c.buf.B[c.r:c.w]
		n := len(p)
		switch b.framing {
		case Chunked:
			p, n, b.err = b.chunks.Decode(p, &c.x.Response.Trailer)
		case UntilClose:
		default:
			n = int(min(int64(n), b.left))
			p = p[:n]
			if b.left -= int64(n); b.left == 0 {
				b.err = io.EOF
			}
		}
		c.r += n
		if len(p) > 0 {
			return p
		}
		if n == 0 {
			break // of a chunk's size line or the trailer more is needed
		}
	}
	return nil
}

// fill waits for more bytes of the body.
func (b *responseBody) fill() {
	c := b.c
	c.conn.SetTimeout(c.limits.Idle)
	if err := b.read(); err != nil {
		if err == io.EOF && b.framing == UntilClose {
			b.err = io.EOF
			return
		}
		b.err = b.Broken(err)
	}
}

// read reads more bytes. While it waits for the first of them it holds no
// buffer.
func (b *responseBody) read() (err error) {
	c := b.c
	if c.r < c.w {
		c.makeRoom(wire.LargeBufferSize)
		n, err := c.conn.Read(c.buf.B[c.w:])
		c.w += n
		return err
	}
	c.release()
	if !b.full {
		c.buf, c.w, err = c.conn.ReadBuffer()
		b.full = c.w == wire.BufferSize
		return err
	}
	if err := c.conn.WaitReadable(); err != nil {
		return err
	}
	c.buf = wire.GetLarge()
	c.w, err = c.conn.Read(c.buf.B)
	b.full = c.w > wire.BufferSize
	return err
}

// Broken turns an error of the connection into what the body's reader is told.
func (b *responseBody) Broken(err error) error {
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		b.err = ErrCut
	} else {
		b.err = b.c.cause(err)
	}
	return b.err
}

// Ready reports whether Next would return without waiting.
func (b *responseBody) Ready() bool {
	if b.ahead == nil && b.err == nil {
		b.ahead = b.take()
	}
	return b.ahead != nil || b.err != nil
}

// Raw implements RawBody.
func (b *responseBody) Raw() (conn *wire.Conn, buffered []byte, remaining int64) {
	c := b.c
	b.back()
	if b.err != nil || b.ahead != nil || b.framing == Chunked {
		return nil, nil, 0
	}
	if c.r < c.w {
		buffered = c.buf.B[c.r:c.w]
	}
	remaining = -1
	if b.framing != UntilClose {
		buffered = buffered[:min(int64(len(buffered)), b.left)]
		if remaining = b.left - int64(len(buffered)); remaining < spliceLeast {
			return nil, nil, 0
		}
	}
	c.conn.SetTimeout(c.limits.Idle)
	return c.conn, buffered, remaining
}

// Advance implements RawBody.
func (b *responseBody) Advance(n int64) {
	c := b.c
	if c.r += int(min(n, int64(c.w-c.r))); c.r == c.w {
		c.release()
	}
	if b.framing != UntilClose {
		if b.left -= n; b.left == 0 {
			b.err = io.EOF
		}
	}
}

// Close ends the exchange's use of the connection. One whose answer was not
// read to its end is not used again, unless the rest is there already.
func (b *responseBody) Close() error {
	c := b.c
	if c.x == nil {
		return nil
	}
	if b.err == nil && b.framing > 0 && b.left <= int64(c.w-c.r) {
		c.r += int(b.left)
		b.err = io.EOF
	}
	b.back()
	b.err = Blame(b.err, c.x.Times.FirstByte, c.x.Times.Due, b.held+int64(c.conn.Held()))
	c.end(b.err == io.EOF)
	return nil
}

var (
	_ RawBody        = (*responseBody)(nil)
	_ exchange.Ready = (*responseBody)(nil)
)
