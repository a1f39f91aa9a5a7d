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

	up, down *wire.Conn // down is nil when the client's half is no socket
	gone     atomic.Bool
}

// Next implements exchange.Body: what flows in a tunnel is no body.
func (t *tunnel) Next() ([]byte, error) { return nil, io.EOF }

// Close closes the upstream's half.
func (t *tunnel) Close() error {
	t.c.Close()
	return nil
}

// Join implements exchange.Tunnel. One goroutine moves bytes each way.
func (t *tunnel) Join(x *exchange.Exchange, client exchange.Stream) error {
	meter := t.c.e.u.meter
	meter.Tunnels(t.c.shard, 1)
	defer meter.Tunnels(t.c.shard, -1)
	var early []byte
	t.up, early = t.c.Tunnel()
	t.up.SetTimeout(t.idle)
	var first []byte
	if raw, ok := client.(h1.RawStream); ok {
		t.down, first = raw.Raw()
		t.down.SetTimeout(t.idle)
		// A client that only stopped sending is still served. That it has
		// really gone is seen neither by reading nor, for want of anything to
		// say, by writing.
		t.down.Watch(t, math.MaxInt64)
	}
	forth := make(chan error, 1)
	go func() { forth <- t.ended(t.forth(client, first), client) }()
	err := t.ended(t.back(client, early), client)
	err = errors.Join(err, <-forth)
	if t.down != nil {
		t.down.Unwatch()
	}
	if t.gone.Load() {
		err = errors.Join(err, exchange.ErrClientGone)
	}
	err = errors.Join(err, x.Canceled())
	t.c.Close()
	return errors.Join(err, client.Close())
}

// forth moves bytes from the client to the upstream.
func (t *tunnel) forth(client exchange.Stream, first []byte) error {
	if t.down != nil {
		return relay(t.up, t.down, first)
	}
	b := wire.GetBuffer()
	defer b.Put()
	for {
		n, err := client.Read(b.B)
		if n > 0 {
			if _, err := t.up.Write(b.B[:n]); err != nil {
				return err
			}
			t.up.SetTimeout(t.idle)
		}
		if err == io.EOF {
			return t.up.CloseWrite()
		}
		if err != nil {
			return err
		}
	}
}

// back moves bytes from the upstream to the client.
func (t *tunnel) back(client exchange.Stream, first []byte) error {
	if t.down != nil {
		return relay(t.down, t.up, first)
	}
	if len(first) > 0 {
		if _, err := client.Write(first); err != nil {
			return err
		}
	}
	for {
		b, n, err := t.up.ReadBuffer()
		if err == io.EOF {
			return client.CloseWrite()
		}
		if err != nil {
			return err
		}
		_, err = client.Write(b.B[:n])
		b.Put()
		if err != nil {
			return err
		}
		t.up.SetTimeout(t.idle)
	}
}

// relay moves bytes one way until src ends, and passes the end on. Progress
// either way counts for both.
func relay(dst, src *wire.Conn, first []byte) error {
	if len(first) > 0 {
		if _, err := dst.Write(first); err != nil {
			return err
		}
	}
	if _, err := wire.Splice(dst, src, -1); err != nil {
		return err
	}
	return dst.CloseWrite()
}

// ended stops the other way after an error of this one.
func (t *tunnel) ended(err error, client exchange.Stream) error {
	if err == nil {
		return nil
	}
	t.interrupt()
	if t.down == nil {
		_ = client.Close() // who reads from it must be woken
	}
	if errors.Is(err, wire.ErrInterrupted) {
		return nil // who interrupted has the reason
	}
	return err
}

// ClientGone implements wire.Watcher.
func (t *tunnel) ClientGone() {
	t.gone.Store(true)
	t.interrupt()
}

func (t *tunnel) interrupt() {
	t.up.Interrupt()
	if t.down != nil {
		t.down.Interrupt()
	}
}

var _ exchange.Tunnel = (*tunnel)(nil)
