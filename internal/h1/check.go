package h1

import (
	"bytes"
	"io"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// scan is how far a head has been looked for in bytes that come piece by
// piece.
type scan struct {
	seen    int  // bytes that held no end
	skipped bool // an empty line before the head was passed over
}

// head looks for a head of at most most bytes at the start of b, behind skip
// bytes that are passed over. A size of 0 means that more bytes are needed.
func (s *scan) head(b []byte, most int) (skip, size int, p *exchange.Problem) {
	if !s.skipped && len(b) >= 2 && b[0] == '\r' && b[1] == '\n' {
		// Some clients end a body with an empty line too many; one is
		// passed over (RFC 9112, section 2.2).
		skip, s.skipped = 2, true
		b = b[2:]
	}
	if len(b) > 0 && (len(b) > 1 || b[0] != '\r' || s.skipped) {
		size, err := FindHead(b, s.seen)
		if err != nil {
			return skip, 0, refusal(err)
		}
		if size > 0 && size <= most {
			return skip, size, nil
		}
		s.seen = len(b)
	}
	if len(b) >= most {
		if i := bytes.IndexByte(b, '\n'); i < 0 || i >= most {
			return skip, 0, &targetTooLong
		}
		return skip, 0, &headTooLarge
	}
	return skip, 0, nil
}

// Check reads along with an engine that takes HTTP/1.1 requests from a
// connection by other means, and finds what Server would refuse: the same
// grammar, the same framing and the same limits, in the same place. It does no
// I/O. Begin, Head until there is one, and Body until its end: that is one
// request.
type Check struct {
	limits  *Limits
	request *exchange.Request

	scan     scan
	framing  Framing
	left     int64
	chunks   ChunkedBody
	received int64
	waited   int64
	until    int64
}

// Begin stands before a request, which is put into r.
func (c *Check) Begin(l *Limits, r *exchange.Request) { *c = Check{limits: l, request: r} }

// Begun reports whether a byte of the head has been seen.
func (c *Check) Begun() bool { return c.scan.seen > 0 }

// Head looks for the head at the start of b, behind skip bytes that must be
// passed over. A size of 0 without a problem means that more bytes are needed.
func (c *Check) Head(b []byte) (skip, size int, p *exchange.Problem) {
	skip, size, p = c.scan.head(b, c.limits.HeaderBytes)
	if size == 0 || p != nil {
		return skip, 0, p
	}
	c.framing, p = ParseRequest(b[skip:skip+size], c.request, c.limits.Headers)
	if p == nil && c.limits.Body > 0 && int64(c.framing) > c.limits.Body {
		p = &bodyTooLarge
	}
	c.left = max(int64(c.framing), 0)
	c.chunks.MaxTrailers = c.limits.Headers
	return skip, size, p
}

// Framing returns what the head said of the body.
func (c *Check) Framing() Framing { return c.framing }

// Body takes bytes from the front of b. It returns how many it took, framing
// included, a piece of the body among them, and whether the body ends with
// them. When it took none, it needs to see the same bytes again with more after
// them, never more than BufferSize at once. Trailer fields are in the request
// when the body has ended.
func (c *Check) Body(b []byte) (data []byte, taken int, ended bool, p *exchange.Problem) {
	if c.framing != Chunked {
		n := int(min(int64(len(b)), c.left))
		c.left -= int64(n)
		return b[:n], n, c.left == 0, nil
	}
	data, taken, err := c.chunks.Decode(b, &c.request.Trailer)
	c.received += int64(len(data))
	switch {
	case err == io.EOF:
		return data, taken, true, nil
	case err != nil:
		return nil, taken, false, malformedBody.With(err)
	case c.limits.Body > 0 && c.received > c.limits.Body:
		return nil, taken, false, &bodyTooLarge
	}
	return data, taken, false, nil
}

// Waited says that the client kept its reader waiting for a piece of the body.
func (c *Check) Waited(d time.Duration) { c.waited += int64(d) }

// GiveUp says that the body is read only to find the next request, and for no
// longer than is worth it.
func (c *Check) GiveUp() { c.until = exchange.Now() + int64(drainTime) }

// Patience returns how long the next piece of the body may take: 0 for ever.
// It is false when the body has taken too long already.
func (c *Check) Patience() (d time.Duration, ok bool) {
	received := c.received
	if c.framing != Chunked {
		received = int64(c.framing) - c.left
	}
	return c.limits.patience(received, c.waited, c.until)
}

// Late returns the problem of a client that took too long, nil when it has
// begun nothing.
func (c *Check) Late() *exchange.Problem {
	switch {
	case c.framing != 0:
		return &bodyTimeout
	case c.scan.seen > 0:
		return &headTimeout
	}
	return nil
}

// Cut returns the problem of a body that ends too early.
func (c *Check) Cut() *exchange.Problem { return bodyCut.With(io.ErrUnexpectedEOF) }

// Refuse returns the problem of a request that is malformed for a reason that
// ParseRequest cannot see.
func Refuse(reason string) *exchange.Problem { return refusal(Malformed(reason)) }
