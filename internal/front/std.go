package front

import (
	"context"
	"errors"
	"log"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"gatehouse.dev/gatehouse/internal/certs"
	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/h1"
	"gatehouse.dev/gatehouse/internal/observe"
)

// std is the engine that is built on net/http. It is an oracle in tests and a
// safety valve in production (docs/adr/0003-why-keep-net-http.md). net/http
// reads through a gate that has checked every byte, so that both engines
// refuse the same.
type std struct {
	o         *Options
	limits    atomic.Pointer[h1.Limits]
	log       *log.Logger
	protocols *http.Protocols
	meter     *observe.Listener
	set       atomic.Pointer[certs.Set] // nil without TLS

	mu       sync.Mutex
	draining bool
	ended    bool                  // cut was called
	young    map[net.Conn]struct{} // in their TLS handshake
	gates    map[*gate]struct{}
}

func newStd(cfg *config.Listener, set *certs.Set, o *Options, meter *observe.Listener) *std {
	e := &std{o: o, meter: meter, gates: make(map[*gate]struct{}), young: make(map[net.Conn]struct{}), protocols: new(http.Protocols)}
	e.protocols.SetHTTP1(true)
	e.log = slog.NewLogLogger(o.Log.Handler(), slog.LevelWarn)
	e.configure(cfg, set)
	return e
}

func (e *std) configure(cfg *config.Listener, set *certs.Set) {
	e.set.Store(set)
	e.limits.Store(engineLimits(cfg.Limits))
}

func (e *std) start(nc net.Conn, client *exchange.Client, ended func()) {
	if set := e.set.Load(); set != nil {
		go e.secure(nc, set, client, ended)
		return
	}
	e.serve(nc, client, ended)
}

// secure speaks TLS with a client before net/http sees the connection.
func (e *std) secure(nc net.Conn, set *certs.Set, client *exchange.Client, ended func()) {
	e.mu.Lock()
	e.young[nc] = struct{}{}
	late := e.ended
	e.mu.Unlock()
	if late {
		nc.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), set.HandshakeTimeout())
	over, facts, err := set.Handshake(ctx, nc)
	cancel()
	e.mu.Lock()
	delete(e.young, nc)
	e.mu.Unlock()
	if err != nil {
		shaken(e.o.Log, e.meter, client, err)
		nc.Close()
		ended()
		return
	}
	e.meter.Secured(client.Shard)
	client.TLS, client.ForwardCert = facts, set.ForwardsClientCert()
	e.serve(over, client, ended)
}

// serve has net/http serve one connection: a server that knows only this one,
// with the gate as its connection and its handler.
func (e *std) serve(nc net.Conn, client *exchange.Client, ended func()) {
	g := newGate(e, nc, client, ended)
	e.enter(g)
	s := &http.Server{
		Handler:                      g,
		DisableGeneralOptionsHandler: true,
		// The gate has limits of its own. This one must only be out of the way.
		MaxHeaderBytes: 4 << 20,
		Protocols:      e.protocols,
		ErrorLog:       e.log,
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateIdle {
				g.idle()
			}
		},
	}
	// It returns as soon as the connection has a goroutine.
	_ = s.Serve(&once{Conn: g})
}

func (e *std) enter(g *gate) {
	e.mu.Lock()
	defer e.mu.Unlock()
	g.drained = e.draining
	e.gates[g] = struct{}{}
}

func (e *std) leave(g *gate) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.gates, g)
}

func (e *std) isDraining() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.draining
}

func (e *std) drain() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.draining = true
	for g := range e.gates {
		g.drain()
	}
}

func (e *std) cut() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.draining, e.ended = true, true
	for g := range e.gates {
		g.cut()
	}
	for nc := range e.young {
		nc.Close()
	}
}

// once is a listener that gives out one connection.
type once struct {
	net.Conn
	given bool
}

var errOnce = errors.New("the only connection was given out")

func (o *once) Accept() (net.Conn, error) {
	if o.given {
		return nil, errOnce
	}
	o.given = true
	return o.Conn, nil
}

func (o *once) Close() error   { return nil }
func (o *once) Addr() net.Addr { return o.LocalAddr() }
