package upstream

import (
	"errors"
	"io"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/proxyproto"
	"gatehouse.dev/gatehouse/internal/upstream/balance"
	"gatehouse.dev/gatehouse/internal/wire"
)

// Connect opens a connection for an exchange that is passed on as it is, and
// returns it, or fails x. An endpoint that cannot be reached is passed over as
// it is for requests. The caller joins or closes what it gets.
func (u *Upstream) Connect(x *exchange.Exchange) exchange.Tunnel {
	x.Upstream.Name = u.name
	s := u.live.Load()
	if len(s.members) == 0 {
		if s = u.await(x); s == nil {
			return nil
		}
	}
	var key uint64
	if u.key != nil {
		key = u.key(x)
	}
	var tried []*balance.Load
	for slow := 0; slow < maxSlow && len(tried) < maxPassed; {
		e := s.pick(key, u.key != nil, tried)
		if e == nil {
			break
		}
		x.Upstream.Endpoint = e.address
		if !e.begin() {
			x.Problem = &overloaded
			tried = append(tried, &e.record.load)
			continue
		}
		c, _, f := e.connect(x, true)
		if f == nil {
			x.Problem = nil
			c.shard = x.Client.Shard
			x.Upstream.Attempts++
			x.Times.Sent = exchange.Now()
			return &passage{c: c}
		}
		e.end()
		x.Problem = f.problem
		if f.why != connect && f.why != full {
			return nil
		}
		if f.problem.Code == connectTimeout.Code {
			slow++
		}
		tried = append(tried, &e.record.load)
	}
	if x.Problem == nil {
		x.Fail(&unavailable)
	}
	return nil
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
	p.c.e.end()
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
		// How long it may be silent is the listener's to say, in x.Tunnel.
		err = errors.Join(p.join(x, client, nil, nil, 0), x.Bind(nil))
	}
	if errors.Is(err, wire.ErrTimeout) {
		err = passageIdle.With(err)
	}
	if err != nil {
		// The other ends must not take what they got for complete.
		p.up.Reset()
		if p.down != nil {
			p.down.Reset()
		}
	}
	p.c.close()
	p.c.e.end()
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
