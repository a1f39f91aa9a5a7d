package h2

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/net/http2"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// This file is a turn's side of exchange.Downstream.

// answer is how far the answer to a request has come.
type answer struct {
	length    int64 // of the body, or exchange.Unknown
	bodiless  bool  // HEAD, 204 and 304 have no body whatever is written
	continued bool  // 100 Continue was sent
	headed    bool  // the head is gathered or written
	pending   bool  // something was gathered since the last Flush
	finished  bool  // complete and gathered or written
	broken    error // writing failed, or the answer was aborted
}

var (
	errAborted   = errors.New("answer was aborted")
	errTooLong   = errors.New("answer is longer than its Content-Length")
	errTooShort  = errors.New("answer is shorter than its Content-Length")
	errNoUpgrade = errors.New("status 101 outside an upgrade")
)

// noFields is never changed.
var noFields exchange.Header

// sayContinue sends 100 Continue when the client waits for it and nobody has
// sent it (RFC 9110, section 10.1.1).
func (t *turn) sayContinue() error {
	a, r := &t.answer, &t.x.Request
	if !r.Expect || a.continued || r.Received > 0 || a.headed {
		return nil
	}
	return t.Inform(100, &noFields)
}

// Inform implements exchange.Downstream.
func (t *turn) Inform(status int, h *exchange.Header) error {
	a := &t.answer
	if status == 101 || a.headed {
		return nil
	}
	if status == 100 {
		if !t.x.Request.Expect || a.continued {
			return nil // it was not asked for, or has been said
		}
		a.continued = true
	}
	k := t.k
	k.mu.Lock()
	defer k.mu.Unlock()
	err := t.sendHead(16+fieldsSize(h), false, func(b []byte) []byte {
		return appendFields(appendStatus(b, status), h, hopFields)
	})
	if err != nil {
		a.broken = err
		return err
	}
	k.flush()
	return nil
}

// WriteHead implements exchange.Downstream. Response.Close has no meaning here:
// where an answer ends does not depend on the connection's end.
func (t *turn) WriteHead(x *exchange.Exchange) error {
	a, r := &t.answer, &x.Response
	if a.broken != nil {
		return a.broken
	}
	if r.Status < 200 {
		t.Abort()
		return errNoUpgrade
	}
	a.length = r.Length
	declared := r.Length
	switch {
	case r.Status == 204:
		a.bodiless, declared = true, exchange.Unknown // RFC 9110, section 8.6
	case r.Status == 304:
		// A length may be said (RFC 9110, section 8.6), but there are clients,
		// net/http's among them, that wait for so many bytes.
		a.bodiless, declared = true, exchange.Unknown
	case x.Request.Method == "HEAD":
		a.bodiless = true
	}
	return t.writeHead(r, r.Status, declared)
}

func (t *turn) writeHead(r *exchange.Response, status int, length int64) error {
	a, k := &t.answer, t.k
	date := ""
	if !r.Header.Has(exchange.Date) {
		date = k.s.dates.At(k.c.Clock())
	}
	k.mu.Lock()
	if r.Status != 101 {
		t.dueBy = t.x.Times.Due // a tunnel is no answer
	}
	a.broken = t.sendHead(96+fieldsSize(&r.Header), false, func(b []byte) []byte {
		b = appendFields(appendStatus(b, status), &r.Header, hopFields)
		if date != "" {
			b = appendText(appendLiteral(b, int(staticName[exchange.Date])), date)
		}
		if r.Local && !r.Header.Has(exchange.Server) {
			b = appendText(appendLiteral(b, int(staticName[exchange.Server])), "gatehouse")
		}
		if length >= 0 {
			b = appendContentLength(b, length)
		}
		return b
	})
	k.mu.Unlock()
	a.headed, a.pending = true, true
	return a.broken
}

// WriteBody implements exchange.Downstream.
func (t *turn) WriteBody(p []byte) error {
	a := &t.answer
	if a.bodiless || len(p) == 0 || a.broken != nil {
		return a.broken
	}
	sent := t.x.Response.Sent + int64(len(p))
	if a.length >= 0 && sent > a.length {
		t.Abort()
		return errTooLong
	}
	t.x.Response.Sent = sent
	t.k.mu.Lock()
	a.broken = t.send(p)
	t.k.mu.Unlock()
	a.pending = true
	return a.broken
}

// WriteFrom implements exchange.Downstream.
func (t *turn) WriteFrom(x *exchange.Exchange) (readErr, writeErr error) {
	a, body := &t.answer, x.Response.Body
	if a.bodiless {
		return nil, a.broken
	}
	ready, tells := body.(exchange.Ready)
	for {
		// The end of a counted body follows its last byte at once.
		atEnd := a.length >= 0 && x.Response.Sent == a.length
		if a.pending && !atEnd && !(tells && ready.Ready()) {
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

// Flush implements exchange.Downstream.
func (t *turn) Flush() error {
	a := &t.answer
	if a.broken != nil || !a.pending {
		return a.broken
	}
	a.pending = false
	t.k.mu.Lock()
	defer t.k.mu.Unlock()
	t.k.flush()
	a.broken = t.writeError()
	return a.broken
}

// Finish implements exchange.Downstream.
func (t *turn) Finish(x *exchange.Exchange) error {
	a, r := &t.answer, &x.Response
	switch {
	case a.broken != nil:
		return a.broken
	case !a.bodiless && a.length >= 0 && r.Sent < a.length:
		t.Abort()
		return fmt.Errorf("%w: %d of %d bytes", errTooShort, r.Sent, a.length)
	}
	k := t.k
	k.mu.Lock()
	defer k.mu.Unlock()
	trails := false
	if !a.bodiless {
		for i := range r.Trailer.Fields() {
			trails = trails || mayTrail(&r.Trailer.Fields()[i])
		}
	}
	if trails {
		a.broken = t.sendHead(fieldsSize(&r.Trailer), true, func(b []byte) []byte {
			return appendTrailer(b, &r.Trailer)
		})
		if a.broken == nil {
			t.endLocal()
		}
	} else {
		a.broken = t.sendEnd()
	}
	if a.broken == nil {
		a.finished = true
		k.flush()
		if k.broken {
			a.finished, a.broken = false, k.dead
		}
	}
	return a.broken
}

// Abort implements exchange.Downstream.
func (t *turn) Abort() {
	a := &t.answer
	if a.finished {
		return
	}
	k := t.k
	k.mu.Lock()
	t.silent = true
	t.resetAs(http2.ErrCodeInternal, errAborted)
	k.flush()
	k.mu.Unlock()
	if a.broken == nil {
		a.broken = errAborted
	}
}

var _ exchange.Downstream = (*turn)(nil)
