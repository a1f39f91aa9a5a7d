package gateway

import (
	"errors"
	"io"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// tapped shows the pieces of a body to the policies that asked for them.
type tapped struct {
	exchange.Body
	g      *Gateway
	x      *exchange.Exchange
	steps  []step // those that the request reached
	answer bool   // it is the body of the answer
}

// tapRequest lets the plan's policies see the request's body. What they could
// otherwise make on the spot from another goroutine is made beforehand.
func (g *Gateway) tapRequest(p *plan, x *exchange.Exchange) {
	x.Reserve(p.slots.Len())
	x.RequestID()
	x.Request.Body = &tapped{Body: x.Request.Body, g: g, x: x, steps: p.steps}
}

// Next shows the next piece before it passes it on.
func (t *tapped) Next() ([]byte, error) {
	p, err := t.Body.Next()
	if len(p) > 0 {
		if problem := t.show(p); problem != nil {
			return nil, problem
		}
	}
	return p, err
}

// show calls the taps. The request's body may be pulled by a goroutine of its
// own, so that a panic in a tap is caught here: the body breaks off.
func (t *tapped) show(p []byte) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = t.g.panicked(t.x, v)
		}
	}()
	for i := range t.steps {
		switch s := &t.steps[i]; {
		case s.skips(t.x):
		case t.answer && s.tapResponse != nil:
			s.tapResponse.TapResponse(t.x, p)
		case !t.answer && s.tapRequest != nil:
			s.tapRequest.TapRequest(t.x, p)
		}
	}
	return nil
}

// Ready implements exchange.Ready for bodies that can tell.
func (t *tapped) Ready() bool {
	r, ok := t.Body.(exchange.Ready)
	return ok && r.Ready()
}

// Interrupt lets whoever pulls the body be woken through the tap.
func (t *tapped) Interrupt() {
	if i, ok := t.Body.(exchange.Interrupter); ok {
		i.Interrupt()
	}
}

var errTooLarge = errors.New("body is over the cap of a policy that must see all of it")

// holdRequest brings the whole request body into memory. It reports false and
// fails the exchange when it cannot be had within the cap.
func holdRequest(x *exchange.Exchange, limit int64) bool {
	r := &x.Request
	if r.Length > limit {
		x.Fail(&bodyTooLarge)
		return false
	}
	p, err := readAll(r.Body, r.Length, limit)
	if err != nil {
		var own *exchange.Problem
		switch {
		case errors.As(err, &own):
			x.Fail(own)
		case errors.Is(err, errTooLarge):
			x.Fail(&bodyTooLarge)
		case x.Canceled() != nil:
			x.Fail(clientGone.With(err))
		default:
			x.Fail(bodyBroken.With(err))
		}
		return false
	}
	if r.Body = exchange.NoBody; len(p) > 0 {
		r.Body = exchange.Bytes(p)
	}
	if r.Trailer.Len() == 0 { // only a body of unknown length has room for one
		r.Length = int64(len(p))
	}
	return true
}

// holdResponse does the same for the answer, where that has a body.
func (g *Gateway) holdResponse(x *exchange.Exchange, limit int64) bool {
	r := &x.Response
	if r.Status == 101 || r.Status == 204 || r.Status == 304 || x.Request.Method == "HEAD" {
		return true
	}
	if r.Length > limit {
		x.Fail(&answerTooLarge)
		return false
	}
	p, err := readAll(r.Body, r.Length, limit)
	switch {
	case errors.Is(err, errTooLarge):
		x.Fail(answerTooLarge.With(err))
		return false
	case err != nil:
		x.Fail(cut(x, err))
		return false
	}
	g.closeBody(x)
	local := r.Local
	r.SetBody(p)
	r.Local = local
	if r.Trailer.Len() > 0 {
		r.Length = exchange.Unknown
	}
	return true
}

// cut says what it means that the answer's body broke off.
func cut(x *exchange.Exchange, err error) *exchange.Problem {
	var own *exchange.Problem
	switch {
	case x.Canceled() != nil:
		return clientGone.With(err)
	case errors.As(err, &own):
		return own
	}
	return answerCut.With(err)
}

// readAll reads a body of the given length, or of an unknown one.
func readAll(b exchange.Body, length, limit int64) ([]byte, error) {
	if p, ok := exchange.Held(b); ok {
		if int64(len(p)) > limit {
			return nil, errTooLarge
		}
		return p, nil
	}
	var all []byte
	if length > 0 && length <= firstHeld {
		all = make([]byte, 0, length)
	}
	for {
		p, err := b.Next()
		if int64(len(all))+int64(len(p)) > limit {
			return nil, errTooLarge
		}
		all = append(all, p...)
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// firstHeld is the most memory that a body gets on the strength of its
// announced length: beyond it memory comes with the bytes.
const firstHeld = 64 << 10
