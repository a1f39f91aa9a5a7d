package front

import (
	"net"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/h1"
	"gatehouse.dev/gatehouse/internal/wire"
)

// native is the gateway's own HTTP/1.1 engine.
type native struct {
	server  h1.Server
	sweeper *wire.Sweeper
}

func newNative(limits config.Limits, o *Options) *native {
	n := &native{sweeper: o.Sweeper}
	n.server.Handler, n.server.Refused = o.Handler, o.Refused
	n.limit(limits)
	return n
}

func (n *native) start(nc net.Conn, client *exchange.Client, ended func()) {
	n.server.Start(wire.New(nc, n.sweeper), client, ended)
}

func (n *native) limit(l config.Limits) { n.server.Limits.Store(engineLimits(l)) }
func (n *native) drain()                { n.server.Drain() }
func (n *native) cut()                  { n.server.Cut() }

// engineLimits turns the limits of the language into those of a connection.
func engineLimits(l config.Limits) *h1.Limits {
	rate := l.BodyMinRate.PerSecond()
	if rate > 0 {
		rate = max(rate, 1) // a byte a second is as slow as is counted
	}
	return &h1.Limits{
		HeaderBytes:     int(l.HeaderBytes),
		Headers:         l.Headers,
		Body:            int64(l.Body),
		HeaderTimeout:   l.HeaderTimeout.D(),
		IdleTimeout:     l.IdleTimeout.D(),
		HalfClose:       l.HalfCloseTimeout.D(),
		BodyMinRate:     int64(rate),
		RequestsPerConn: l.RequestsPerConnection,
	}
}
