package h2

import (
	"errors"
	"io"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/wire"
)

// tunnel is the upstream's half of a WebSocket over HTTP/2.
type tunnel struct{ a *call }

// tunnelled turns the answer into the one that HTTP/1 has for it.
func (a *call) tunnelled() {
	r, x := &a.x.Response, a.x
	r.Status, r.Length = 101, exchange.Unknown
	r.Header.AddKnown(exchange.Upgrade, x.Request.Upgrade)
	r.Header.Set(acceptField, acceptOf(x.Request.Header.Known(exchange.SecWebSocketKey)))
	a.tunnel.s = &a.stream
	r.Body = &tunnel{a}
}

// Next implements exchange.Body: what flows in a tunnel is no body.
func (t *tunnel) Next() ([]byte, error) { return nil, io.EOF }

// Close closes the upstream's half.
func (t *tunnel) Close() error {
	if a := t.a; a != nil {
		t.a = nil
		a.finish()
	}
	return nil
}

// rawStream is a stream whose connection may be used directly.
type rawStream interface {
	Raw() (c *wire.Conn, early []byte)
}

// Join implements exchange.Tunnel. One goroutine moves bytes each way.
// Progress either way counts for both.
func (t *tunnel) Join(x *exchange.Exchange, client exchange.Stream) error {
	a := t.a
	var from io.Reader = client
	if raw, ok := client.(rawStream); ok {
		down, early := raw.Raw()
		from = &rawReader{c: down, early: early}
	}
	forth := make(chan error, 1)
	go func() { forth <- t.ended(a.forth(from), client) }()
	err := t.ended(a.back(client), client)
	err = errors.Join(err, <-forth, x.Canceled())
	return errors.Join(err, t.Close(), client.Close())
}

// rawReader reads a connection, first what came early.
type rawReader struct {
	c     *wire.Conn
	early []byte
}

func (r *rawReader) Read(p []byte) (int, error) {
	if len(r.early) > 0 {
		n := copy(p, r.early)
		r.early = r.early[n:]
		return n, nil
	}
	return r.c.Read(p)
}

// ended stops the other way after an error of this one.
func (t *tunnel) ended(err error, client exchange.Stream) error {
	if err == nil {
		return nil
	}
	_ = t.a.tunnel.Close()
	_ = client.Close() // who reads from it must be woken
	return err
}

// forth moves bytes from the client to the upstream.
func (a *call) forth(from io.Reader) error {
	b := wire.GetBuffer()
	defer b.Put()
	for {
		n, err := from.Read(b.B)
		if n > 0 {
			if _, err := a.tunnel.Write(b.B[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return a.tunnel.CloseWrite()
		}
		if err != nil {
			return err
		}
	}
}

// back moves bytes from the upstream to the client. It keeps the idle time of
// both ways.
func (a *call) back(client exchange.Stream) error {
	for {
		p, err := a.nextWithin(a.c.idleFor)
		if err == io.EOF {
			return client.CloseWrite()
		}
		if err != nil {
			return err
		}
		if _, err := client.Write(p); err != nil {
			return err
		}
	}
}

// nextWithin returns the next piece unless neither way moved for so long.
func (a *call) nextWithin(idle time.Duration) ([]byte, error) {
	a.c.mu.Lock()
	defer a.c.mu.Unlock()
	for {
		a.readBy = 0
		if idle > 0 {
			a.readBy = a.moved + int64(idle)
		}
		p, err := a.next()
		if errors.Is(err, errLate) {
			if a.moved+int64(idle) > exchange.Now() {
				continue
			}
			return nil, wire.ErrTimeout
		}
		return p, err
	}
}

var _ exchange.Tunnel = (*tunnel)(nil)
