package h1

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/wire"
)

// pump sends a request's body on a goroutine of its own, while the exchange's
// goroutine waits for the answer. It alone uses the body while it runs: a body
// that can wait implements exchange.Interrupter, and its Close ends the effect
// of Interrupt.
type pump struct {
	state pumpState
	done  chan error // what running ended with
	err   error      // received from done
	halt  atomic.Bool
	last  atomic.Bool // what completes the body is being written

	conn    *wire.Conn
	limits  *ResponseLimits
	body    exchange.Body
	request *exchange.Request // its trailer
	length  int64
	sent    int64 // bytes of the body that were written
	chunked bool  // a chunk was written
	scratch [32]byte

	mu    sync.Mutex // whose turn it is to set the connection's timeout
	heard bool       // the answer's head is there
}

type pumpState uint8

const (
	pumpUnused pumpState = iota
	pumpRunning
	pumpEnded
)

var errHalted = errors.New("sending was stopped")

// start sends the rest of the body of a client's request.
func (p *pump) start(c *Client) {
	r := &c.x.Request
	if p.done == nil {
		p.done = make(chan error, 1)
	}
	p.state, p.err, p.heard, p.chunked = pumpRunning, nil, false, false
	p.halt.Store(false)
	p.last.Store(false)
	p.conn, p.limits = c.conn, c.limits
	p.body, p.request, p.length = r.Body, r, r.Length
	p.conn.SetTimeout(0)
	go p.run()
}

func (p *pump) started() bool { return p.state != pumpUnused }

// run is the pump's goroutine. Who waits for the answer is told when there is
// no use in waiting. An upstream that only refuses the rest of the body may
// have answered.
func (p *pump) run() {
	err := p.send()
	p.finished()
	conn := p.conn
	p.done <- err
	if hopeless(err) {
		conn.Interrupt()
	}
}

// hopeless reports whether no answer can be expected after an error of
// sending: the body failed, or the upstream does not read it.
func hopeless(err error) bool {
	var own *RequestError
	return errors.As(err, &own) || errors.Is(err, wire.ErrTimeout)
}

// send sends the body to its end. A panic in a policy that watches it harms
// this request only.
func (p *pump) send() (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &RequestError{fmt.Errorf("panic: %v", v)}
		}
	}()
	if raw, ok := p.body.(RawBody); ok && p.length-p.sent >= spliceLeast {
		if err := p.splice(raw); err != nil {
			return err
		}
	}
	for p.length < 0 || p.sent < p.length {
		if p.halt.Load() {
			return errHalted
		}
		piece, err := p.body.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return &RequestError{err}
		}
		if err := p.write(piece); err != nil {
			return err
		}
	}
	if p.length >= 0 {
		if p.sent != p.length {
			return &RequestError{errBodyLength}
		}
		return nil
	}
	p.writing()
	p.last.Store(true)
	p.request.DropOwn()
	_, err = p.conn.Write(AppendLastChunk(nil, &p.request.Trailer, !p.chunked))
	return err
}

// write writes a piece of the body.
func (p *pump) write(piece []byte) error {
	head := p.scratch[:0]
	if p.length < 0 {
		head = AppendChunkHead(head, len(piece), !p.chunked)
		p.chunked = true
	} else if p.sent+int64(len(piece)) > p.length {
		return &RequestError{errBodyLength}
	}
	p.writing()
	p.last.Store(p.sent+int64(len(piece)) == p.length)
	if err := p.conn.Writev(head, piece, nil); err != nil {
		return err
	}
	p.sent += int64(len(piece))
	p.wrote()
	return nil
}

// spliceRest is how much of a body is not spliced, so that its end passes
// through write.
const spliceRest = 4 << 10

// splice moves the body inside the kernel, where there is a way, but for its
// last bytes.
func (p *pump) splice(body RawBody) error {
	src, buffered, remaining := body.Raw()
	if src == nil || remaining < spliceLeast || p.sent+int64(len(buffered))+remaining != p.length {
		return nil
	}
	if len(buffered) > 0 {
		if err := p.write(buffered); err != nil {
			return err
		}
		body.Advance(int64(len(buffered)))
	}
	p.writing()
	n, err := wire.Splice(p.conn, src, remaining-spliceRest)
	p.sent += n
	body.Advance(n)
	p.wrote()
	var failed *wire.WriteError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &failed):
		// The body is told, its bytes may be lost, and the upstream is at
		// fault.
		_ = body.Broken(err)
		return failed.Err
	}
	return &RequestError{body.Broken(err)}
}

// While there is no answer the upstream has Idle for each write, no time limit
// while the body keeps us waiting, and FirstByte once it is sent. After that
// Idle counts from the last progress either way.

func (p *pump) writing() { p.conn.SetTimeout(p.limits.Idle) }

func (p *pump) wrote() {
	p.mu.Lock()
	if p.heard {
		p.conn.SetTimeout(p.limits.Idle)
	} else {
		p.conn.SetTimeout(0)
	}
	p.mu.Unlock()
}

func (p *pump) finished() {
	p.mu.Lock()
	if !p.heard {
		p.conn.SetTimeout(p.limits.FirstByte)
	}
	p.mu.Unlock()
}

// answered says that the answer's head is there, and who has the body.
func (p *pump) answered(r *exchange.Request) {
	p.poll()
	if r.Lent = p.state == pumpRunning; !r.Lent {
		return
	}
	p.mu.Lock()
	p.heard = true
	p.mu.Unlock()
}

// endGrace is how long the pump may take to notice that it has written all.
// The upstream's answer to that can be quicker.
const endGrace = 20 * time.Millisecond

// poll looks whether the pump has ended.
func (p *pump) poll() {
	if p.state != pumpRunning {
		return
	}
	select {
	case p.err = <-p.done:
		p.state = pumpEnded
	default:
		if p.last.Load() {
			p.wait(endGrace)
		}
	}
}

// wait waits for the pump to end by itself, but not for long.
func (p *pump) wait(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case p.err = <-p.done:
		p.state = pumpEnded
	case <-t.C:
	}
}

// failure returns what the pump ended with if it was hopeless. After a timeout
// it waits a little: when client and upstream have stalled for the same time,
// it is the client who is at fault.
func (p *pump) failure(timeout bool) error {
	p.poll()
	if timeout && p.state == pumpRunning {
		p.wait(3 * wire.Tick)
	}
	if hopeless(p.err) {
		return p.err
	}
	return nil
}

// stop waits for the pump to end, after it interrupted whatever it waits for.
// It reports whether the body was sent whole, and readies the pump for the
// next request.
func (p *pump) stop() (sent bool) {
	p.poll()
	if p.state == pumpRunning {
		p.halt.Store(true)
		p.conn.Interrupt()
		if i, ok := p.body.(exchange.Interrupter); ok {
			i.Interrupt()
		}
		if p.err = <-p.done; p.err == nil {
			p.err = errHalted // it was quicker, but the connection is interrupted
		}
		// It ends the interruption and cannot fail.
		_ = p.body.Close()
	}
	sent = p.err == nil
	p.state, p.err, p.sent = pumpUnused, nil, 0
	p.body, p.request = nil, nil
	return sent
}
