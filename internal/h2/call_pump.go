package h2

import (
	"errors"
	"fmt"
	"io"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/wire"
)

// This file sends the body of a request on a goroutine of its own, while the
// exchange's goroutine waits for the answer.

// startPump sends the rest of the body on a goroutine of its own.
func (a *call) startPump(piece []byte) {
	a.pumping, a.touched = true, true
	a.pumped = make(chan struct{})
	go a.pump(piece)
}

// pump is that goroutine. It alone uses the body while it runs.
func (a *call) pump(piece []byte) {
	err := a.sendBody(piece)
	a.c.mu.Lock()
	a.pumping, a.pumpErr = false, err
	if !a.whole {
		a.sentWhole() // or as much of it as will be
	}
	a.reading.Broadcast()
	a.c.mu.Unlock()
	close(a.pumped)
}

// hopeless reports whether no answer can be expected after an error of
// sending: the body failed, or the upstream does not read it.
func hopeless(err error) bool {
	if err == nil {
		return false
	}
	var own *RequestError
	return errors.As(err, &own) || errors.Is(err, wire.ErrTimeout)
}

// sendBody sends the body to its end. A panic in a policy that watches it
// harms this request only.
func (a *call) sendBody(piece []byte) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &RequestError{fmt.Errorf("panic: %v", v)}
		}
	}()
	c, r := a.c, &a.x.Request
	body, length := r.Body, r.Length
	ready, tells := body.(exchange.Ready)
	sent := int64(0)
	for {
		if len(piece) > 0 {
			if sent += int64(len(piece)); length >= 0 && sent > length {
				return &RequestError{errBodyLength}
			}
			more := tells && ready.Ready() && sent != length
			c.mu.Lock()
			err := a.send(piece)
			if err == nil && !more {
				c.flush()
			}
			c.mu.Unlock()
			if err != nil {
				return err
			}
		}
		piece, err = body.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return &RequestError{err}
		}
	}
	if length >= 0 && sent != length {
		return &RequestError{errBodyLength}
	}
	r.DropOwn()
	c.mu.Lock()
	defer c.mu.Unlock()
	return a.sendTrailer(&r.Trailer)
}

// sendTrailer ends the request.
func (a *call) sendTrailer(t *exchange.Header) error {
	trails := false
	for i := range t.Fields() {
		trails = trails || mayTrail(&t.Fields()[i])
	}
	if !trails {
		if err := a.sendEnd(); err != nil {
			return err
		}
	} else {
		err := a.sendHead(fieldsSize(t), true, func(b []byte) []byte { return appendTrailer(b, t) })
		if err != nil {
			return err
		}
		a.endLocal()
	}
	a.sentWhole()
	a.reading.Broadcast() // the answer's time begins
	a.c.flush()
	return nil
}
