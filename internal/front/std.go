package front

import (
	"errors"
	"log"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/h1"
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

	mu       sync.Mutex
	draining bool
	gates    map[*gate]struct{}
}

func newStd(limits config.Limits, o *Options) *std {
	e := &std{o: o, gates: make(map[*gate]struct{}), protocols: new(http.Protocols)}
	e.protocols.SetHTTP1(true)
	e.log = slog.NewLogLogger(o.Log.Handler(), slog.LevelWarn)
	e.limit(limits)
	return e
}

func (e *std) limit(l config.Limits) { e.limits.Store(engineLimits(l)) }

// start has net/http serve one connection: a server that knows only this one,
// with the gate as its connection and its handler.
func (e *std) start(nc net.Conn, client *exchange.Client, ended func()) {
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
	e.draining = true
	for g := range e.gates {
		g.cut()
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
