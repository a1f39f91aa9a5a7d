package upstream

import (
	"errors"
	"io"
	"math"
	"sync/atomic"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/h1"
	"gatehouse.dev/gatehouse/internal/wire"
)

// tunnel is the upstream's half of an upgraded connection.
type tunnel struct {
	c    *conn
	idle time.Duration
	junction
}

// Next implements exchange.Body: what flows in a tunnel is no body.
func (t *tunnel) Next() ([]byte, error) { return nil, io.EOF }

// Close closes the upstream's half.
func (t *tunnel) Close() error {
	t.c.Close()
	return nil
}

// Join implements exchange.Tunnel.
func (t *tunnel) Join(x *exchange.Exchange, client exchange.Stream) error {
	meter := t.c.e.u.meter
	meter.Tunnels(t.c.shard, 1)
	defer meter.Tunnels(t.c.shard, -1)
	var early []byte
	t.up, early = t.c.Tunnel()
	if x.Tunnel.MaxMessage > 0 || x.Tunnel.MaxFrame > 0 {
		t.forth.frames = &frames{maxMessage: x.Tunnel.MaxMessage, maxFrame: x.Tunnel.MaxFrame, masked: true}
		t.back.frames = &frames{maxMessage: x.Tunnel.MaxMessage, maxFrame: x.Tunnel.MaxFrame}
	}
	err := t.join(x, client, early, nil, t.idle)
	t.c.Close()
	return errors.Join(err, client.Close())
}

// junction joins a client's stream and a connection to the service.
type junction struct {
	up     *wire.Conn
	down   *wire.Conn // nil when the client's half is no socket
	client exchange.Stream
	idle   time.Duration
	gone   atomic.Bool

	forth, back way
}

// way is one direction of a junction.
type way struct {
	moved  int64
	frames *frames // nil unless they are looked at
}

// shorter returns the shorter of two times, of which 0 is none.
func shorter(a, b time.Duration) time.Duration {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

// join moves bytes both ways, one goroutine each, until both have ended. early
// came from the service already; before goes to it first of all. It closes
// nothing.
func (t *junction) join(x *exchange.Exchange, client exchange.Stream, early, before []byte, idle time.Duration) error {
	t.client, t.idle = client, shorter(idle, x.Tunnel.Idle)
	t.up.SetLimit(x.Tunnel.Lifetime)
	t.up.SetTimeout(t.idle)
	var first []byte
	if raw, ok := client.(h1.RawStream); ok {
		t.down, first = raw.Raw()
		t.down.SetLimit(x.Tunnel.Lifetime)
		t.down.SetTimeout(t.idle)
		// A client that only stopped sending is still served. That it has
		// really gone is seen neither by reading nor, for want of anything to
		// say, by writing.
		t.down.Watch(t, math.MaxInt64)
	}
	forth := make(chan error, 1)
	go func() { forth <- t.ended(t.goForth(before, first)) }()
	err := t.ended(t.goBack(early))
	err = errors.Join(err, <-forth)
	if t.down != nil {
		t.down.Unwatch()
	}
	x.Request.Received += t.forth.moved
	x.Response.Sent += t.back.moved
	if t.gone.Load() {
		err = errors.Join(err, exchange.ErrClientGone)
	}
	return errors.Join(err, x.Canceled())
}

// goForth moves bytes from the client to the upstream.
func (t *junction) goForth(before, first []byte) error {
	if t.forth.frames == nil && len(before)+len(first) > 0 {
		if err := t.up.Writev(before, first, nil); err != nil {
			return err
		}
		t.forth.moved += int64(len(first))
		first = nil
	}
	if t.down != nil {
		return t.relay(&t.forth, t.up, t.down, first)
	}
	b := wire.GetBuffer()
	defer b.Put()
	for {
		n, err := t.client.Read(b.B)
		if n > 0 {
			if err := t.pass(&t.forth, t.up, b.B[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return t.up.CloseWrite()
		}
		if err != nil {
			return err
		}
	}
}

// goBack moves bytes from the upstream to the client.
func (t *junction) goBack(first []byte) error {
	if t.down != nil {
		return t.relay(&t.back, t.down, t.up, first)
	}
	return t.copy(&t.back, t.client, t.up, first)
}

// sink is what takes the bytes of one way.
type sink interface {
	io.Writer
	CloseWrite() error
}

// relay moves bytes one way until src ends, and passes the end on. Progress
// either way counts for both.
func (t *junction) relay(w *way, dst, src *wire.Conn, first []byte) error {
	if w.frames != nil {
		return t.copy(w, dst, src, first)
	}
	if len(first) > 0 {
		if err := t.pass(w, dst, first); err != nil {
			return err
		}
	}
	n, err := wire.Splice(dst, src, -1)
	w.moved += n
	if err != nil {
		return err
	}
	return dst.CloseWrite()
}

// copy is relay for what must be looked at, or does not end in a socket.
func (t *junction) copy(w *way, dst sink, src *wire.Conn, first []byte) error {
	if len(first) > 0 {
		if err := t.pass(w, dst, first); err != nil {
			return err
		}
	}
	for {
		b, n, err := src.ReadBuffer()
		if err == io.EOF {
			return dst.CloseWrite()
		}
		if err != nil {
			return err
		}
		err = t.pass(w, dst, b.B[:n])
		b.Put()
		if err != nil {
			return err
		}
	}
}

// pass writes a piece. Frames beyond a limit end the tunnel.
func (t *junction) pass(w *way, dst sink, p []byte) error {
	if w.frames == nil {
		if _, err := dst.Write(p); err != nil {
			return err
		}
	} else if err := w.frames.pass(dst, p); err != nil {
		t.refuse(w, err)
		return err
	}
	w.moved += int64(len(p))
	t.up.SetTimeout(t.idle)
	if t.down != nil {
		t.down.SetTimeout(t.idle)
	}
	return nil
}

// refuse tells whoever sent a frame that goes too far why the tunnel ends, if
// no other frame is under way to him.
func (t *junction) refuse(w *way, err error) {
	var e frameError
	if !errors.As(err, &e) {
		return
	}
	if w == &t.back {
		t.forth.frames.end(t.up, e)
	} else if t.down != nil {
		t.back.frames.end(t.down, e)
	} else {
		t.back.frames.end(t.client, e)
	}
}

// ended stops the other way after an error of this one.
func (t *junction) ended(err error) error {
	if err == nil {
		return nil
	}
	t.interrupt()
	if t.down == nil {
		_ = t.client.Close() // who reads from it must be woken
	}
	if errors.Is(err, wire.ErrInterrupted) {
		return nil // who interrupted has the reason
	}
	return err
}

// ClientGone implements wire.Watcher.
func (t *junction) ClientGone() {
	t.gone.Store(true)
	t.interrupt()
}

func (t *junction) interrupt() {
	t.up.Interrupt()
	if t.down != nil {
		t.down.Interrupt()
	}
}

var _ exchange.Tunnel = (*tunnel)(nil)
