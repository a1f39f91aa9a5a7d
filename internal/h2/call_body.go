package h2

import (
	"errors"
	"fmt"
	"io"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/wire"
)

// answerBody is the body of an upstream's answer.
type answerBody struct {
	a   *call // nil when it was closed
	err error
}

// Next returns the next piece of the body.
func (b *answerBody) Next() ([]byte, error) {
	if b.err != nil {
		return nil, b.err
	}
	a := b.a
	c := a.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if a.readBy = a.requestBy; c.idleFor > 0 && !a.buffered() && !a.stream.ended {
			a.moved = max(a.moved, a.wholeAt)
			if at := max(a.moved, a.x.Times.FirstByte) + int64(c.idleFor); a.readBy == 0 || at < a.readBy {
				a.readBy = at
			}
		}
		if a.requestBy != 0 && !a.stream.ended && exchange.Now() >= a.requestBy {
			b.err = wire.ErrTimeout
			return nil, b.err
		}
		p, err := a.next()
		if err == nil {
			return p, nil
		}
		now := exchange.Now()
		late := errors.Is(err, errLate) && (a.requestBy == 0 || now < a.requestBy)
		if late && a.moved+int64(c.idleFor) > now {
			continue // the request is making progress
		}
		b.err = b.broken(err)
		return nil, b.err
	}
}

// broken turns the end of the stream into what the body's reader is told.
func (b *answerBody) broken(err error) error {
	a := b.a
	if err == io.EOF {
		a.x.Response.Trailer.CopyFrom(&a.trailer)
		return io.EOF
	}
	var reset resetError
	switch {
	case errors.Is(err, wire.ErrInterrupted):
		if reason := a.x.Canceled(); reason != nil {
			return reason
		}
		return err
	case errors.Is(err, errLate):
		if hopeless(a.pumpErr) {
			return a.pumpErr
		}
		return wire.ErrTimeout
	case errors.As(err, &reset) && !reset.remote:
		return Malformed(reset.text)
	}
	return fmt.Errorf("%w: %w", ErrCut, err)
}

// Ready reports whether Next would return without waiting.
func (b *answerBody) Ready() bool {
	a := b.a
	a.c.mu.Lock()
	defer a.c.mu.Unlock()
	return b.err != nil || a.buffered() || a.stream.ended || a.failure != nil
}

// Close ends the exchange's use of the stream. One whose answer was not read
// to its end is reset.
func (b *answerBody) Close() error {
	if a := b.a; a != nil {
		b.a = nil
		b.err = io.ErrClosedPipe
		a.finish()
	}
	return nil
}

var _ exchange.Ready = (*answerBody)(nil)
