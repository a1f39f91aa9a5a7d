package upstream

import (
	"errors"
	"io"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/proxyproto"
	"gatehouse.dev/gatehouse/internal/wire"
)

// Connect opens a connection for an exchange that is passed on as it is, and
// returns it, or fails x. An endpoint that cannot be reached is passed over as
// it is for requests. The caller joins or closes what it gets.
func (u *Upstream) Connect(x *exchange.Exchange) exchange.Tunnel {
	var c *conn
	u.each(x, func(e *endpoint) (p *exchange.Problem, next bool) {
		c, p, next = e.connect(x)
		return p, next
	})
	if c == nil {
		return nil
	}
	c.shard = x.Client.Shard
	x.Upstream.Attempts++
	x.Times.Sent = exchange.Now()
	return &passage{c: c}
}

// passage is the upstream's half of a connection that is passed on.
type passage struct {
	c *conn
	junction
}

// Next implements exchange.Body: what flows in it is no body.
func (p *passage) Next() ([]byte, error) { return nil, io.EOF }

// Close closes a connection that was not joined.
func (p *passage) Close() error {
	p.c.close()
	return nil
}

// Join implements exchange.Tunnel.
func (p *passage) Join(x *exchange.Exchange, client exchange.Stream) error {
	u := p.c.e.u
	u.meter.Tunnels(p.c.shard, 1)
	defer u.meter.Tunnels(p.c.shard, -1)
	p.up, _ = p.c.Tunnel()
	err := x.Bind(p)
	if err == nil {
		err = errors.Join(p.join(x, client, nil, nil, u.limits.Idle), x.Bind(nil))
	}
	if errors.Is(err, wire.ErrTimeout) {
		err = silent.With(err)
	}
	if err != nil {
		// The other ends must not take what they got for complete.
		p.up.Reset()
		if p.down != nil {
			p.down.Reset()
		}
	}
	p.c.close()
	return errors.Join(err, client.Close())
}

// Interrupt implements exchange.Interrupter: whoever cancels the exchange ends
// the passage.
func (p *passage) Interrupt() { p.up.Interrupt() }

// introduce tells the service who the client is, where the upstream says so:
// before all other bytes of a connection.
func (u *Upstream) introduce(x *exchange.Exchange, wc *wire.Conn) error {
	if u.header == 0 {
		return nil
	}
	wc.SetTimeout(u.pool.ConnectTimeout.D())
	_, err := wc.Write(proxyproto.Append(nil, u.header, x.Client.Addr, x.Client.Local))
	return err
}

var (
	_ exchange.Tunnel      = (*passage)(nil)
	_ exchange.Interrupter = (*passage)(nil)
)
