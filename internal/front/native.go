package front

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"gatehouse.dev/gatehouse/internal/certs"
	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/h1"
	"gatehouse.dev/gatehouse/internal/h2"
	"gatehouse.dev/gatehouse/internal/observe"
	"gatehouse.dev/gatehouse/internal/wire"
)

// native is the gateway's own engine for HTTP/1.1 and HTTP/2, plain and over
// TLS.
type native struct {
	h1      h1.Server
	h2      h2.Server
	sweeper *wire.Sweeper
	log     *slog.Logger
	meter   *observe.Listener
	set     atomic.Pointer[certs.Set] // nil without TLS
	first   opening                   // what a plain connection may begin with

	mu    sync.Mutex
	young map[*wire.Conn]struct{} // connections whose protocol is not known yet
	ended bool                    // cut was called
}

// opening says which protocols a plain connection may begin with.
type opening struct{ http1, h2c bool }

func newNative(cfg *config.Listener, set *certs.Set, o *Options, meter *observe.Listener) *native {
	n := &native{
		sweeper: o.Sweeper, log: o.Log, meter: meter, young: make(map[*wire.Conn]struct{}),
		first: opening{cfg.Speaks("http1"), cfg.Speaks("h2c")},
	}
	n.h1.Handler, n.h1.Refused = o.Handler, o.Refused
	panicked := func(v any) {
		n.log.Error("serving a connection caused a panic", "listener", cfg.Name, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
	}
	n.h2.Handler, n.h2.Refused = o.Handler, o.Refused
	n.h1.Panicked, n.h2.Panicked = panicked, panicked
	n.configure(cfg, set)
	return n
}

func (n *native) configure(cfg *config.Listener, set *certs.Set) {
	n.set.Store(set)
	l := engineLimits(cfg.Limits)
	n.h1.Limits.Store(l)
	n.h2.Limits.Store(&h2.Limits{
		HeaderBytes: l.HeaderBytes, Headers: l.Headers, Body: l.Body,
		HeaderTimeout: l.HeaderTimeout, IdleTimeout: l.IdleTimeout, BodyMinRate: l.BodyMinRate,
		Streams: cfg.Limits.Streams, RequestsPerConn: l.RequestsPerConn,
	})
}

func (n *native) start(nc net.Conn, client *exchange.Client, ended func()) {
	c := wire.New(nc, n.sweeper)
	set := n.set.Load()
	switch {
	case set != nil:
		go n.secure(c, set, client, ended)
	case n.first.h2c && n.first.http1:
		go n.sniff(c, client, ended)
	case n.first.h2c:
		n.h2.Start(c, client, ended)
	default:
		n.h1.Start(c, client, ended)
	}
}

func (n *native) drain() {
	n.h1.Drain()
	n.h2.Drain()
}

func (n *native) cut() {
	n.mu.Lock()
	n.ended = true
	for c := range n.young {
		c.Hangup()
	}
	n.mu.Unlock()
	n.h1.Cut()
	n.h2.Cut()
}

// grow lets cut end a connection that no server knows yet.
func (n *native) grow(c *wire.Conn) (grown func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.young[c] = struct{}{}
	if n.ended {
		c.Hangup()
	}
	return func() {
		n.mu.Lock()
		delete(n.young, c)
		n.mu.Unlock()
	}
}

// secure speaks TLS with a client, and has the connection served by the
// protocol that both agreed on.
func (n *native) secure(c *wire.Conn, set *certs.Set, client *exchange.Client, ended func()) {
	grown := n.grow(c)
	c.SetLimit(set.HandshakeTimeout())
	c.SetTimeout(0)
	over, facts, err := set.Handshake(context.Background(), c.Socket())
	c.SetLimit(0)
	c.SetTimeout(0)
	grown()
	if err != nil {
		shaken(n.log, n.meter, client, err)
		// Nothing was promised to the other end.
		_ = c.Close()
		ended()
		return
	}
	n.meter.Secured(client.Shard)
	c.Secure(over)
	client.TLS, client.ForwardCert = facts, set.ForwardsClientCert()
	if facts.Protocol == "h2" {
		n.h2.Start(c, client, ended)
		return
	}
	n.h1.Start(c, client, ended)
}

// shaken reports a handshake that failed. Scanners cause many, so that each is
// of interest only to who looks for it.
func shaken(log *slog.Logger, meter *observe.Listener, client *exchange.Client, err error) {
	if errors.Is(err, certs.ErrChallenge) || errors.Is(err, io.EOF) {
		return
	}
	meter.Unsecured(client.Shard)
	log.Debug("a TLS handshake failed", "listener", client.Listener, "client", client.Peer.String(), "error", err)
}

// preface is how the first bytes of HTTP/2 differ from every request of
// HTTP/1.1 (RFC 9113, section 3.4).
const preface = "PRI * HTTP/2.0\r\n"

// sniff tells by the first bytes of a plain connection whether it is HTTP/2 by
// prior knowledge (RFC 9113, section 3.3).
func (n *native) sniff(c *wire.Conn, client *exchange.Client, ended func()) {
	grown := n.grow(c)
	c.SetTimeout(n.h1.Limits.Load().IdleTimeout)
	in, size, err := c.ReadBuffer()
	for err == nil && size < len(preface) && bytes.HasPrefix([]byte(preface), in.B[:size]) {
		c.SetTimeout(n.h1.Limits.Load().HeaderTimeout)
		var more int
		more, err = c.Read(in.B[size:])
		size += more
	}
	grown()
	switch {
	case err != nil:
		if in != nil {
			in.Put()
		}
		_ = c.Close() // it has sent nothing that could be answered
		ended()
	case bytes.HasPrefix(in.B[:size], []byte(preface)):
		n.h2.Continue(c, client, in, size, ended)
	default:
		n.h1.Continue(c, client, in, size, ended)
	}
}

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
