package front

import (
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"

	"gatehouse.dev/gatehouse/internal/certs"
	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/h1"
	"gatehouse.dev/gatehouse/internal/wire"
)

// passer is the engine of listeners that open nothing: it finds out which name
// a client asks for, where the listener goes by that, and has the connection
// passed on.
type passer struct {
	o      *Options
	tls    bool
	limits atomic.Pointer[config.Limits]

	mu    sync.Mutex
	conns map[*passed]struct{}
}

func newPasser(cfg *config.Listener, o *Options) *passer {
	e := &passer{o: o, tls: cfg.Protocol == "tls", conns: make(map[*passed]struct{})}
	e.configure(cfg, nil)
	return e
}

func (e *passer) configure(cfg *config.Listener, _ *certs.Set) { e.limits.Store(&cfg.Limits) }

// drain leaves connections alone: nobody can tell from outside when nothing is
// in flight. They end by themselves, or are cut.
func (e *passer) drain() {}

func (e *passer) cut() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for k := range e.conns {
		k.cut()
	}
}

var errCut = errors.New("the gateway stops")

// The problems of connections that cannot be passed on.
var (
	helloRefused = exchange.Problem{
		Status: 400, Code: "tls_malformed", Side: exchange.SideClient,
		Detail: "The connection does not begin with a TLS ClientHello.",
	}
	helloLate = exchange.Problem{
		Status: 408, Code: "tls_timeout", Side: exchange.SideClient,
		Detail: "The TLS ClientHello took too long.",
	}
	passCut = exchange.Problem{
		Status: 503, Code: "draining", Side: exchange.SideGateway,
		Detail: "The gateway stopped.",
	}
)

// passed is a connection that is passed on.
type passed struct {
	*wire.Conn
	e     *passer
	first []byte // what was read of it

	mu sync.Mutex
	x  *exchange.Exchange // nil once it is over
}

// start implements engine.
func (e *passer) start(nc net.Conn, client *exchange.Client, ended func()) {
	k := &passed{Conn: wire.New(nc, e.o.Sweeper), e: e, x: exchange.Get()}
	k.x.Client = client
	e.mu.Lock()
	e.conns[k] = struct{}{}
	e.mu.Unlock()
	go func() {
		defer ended()
		k.serve()
	}()
}

func (k *passed) serve() {
	x, limits := k.x, k.e.limits.Load()
	x.Times.Start = exchange.Now()
	x.Tunnel.Idle = limits.IdleTimeout.D()
	x.Request.Proto = exchange.TCP
	silent := false
	if k.e.tls {
		x.Request.Proto = exchange.PassedTLS
		silent = !k.hello(x, limits)
	}
	x.Times.Head = exchange.Now()
	if !silent {
		k.e.o.Pass(x, k)
	}
	if !x.Response.HeadSent {
		k.sorry(x.Problem)
		_ = k.Close() // it was not passed on
	}
	k.e.mu.Lock()
	delete(k.e.conns, k)
	k.e.mu.Unlock()
	k.mu.Lock()
	k.x = nil
	k.mu.Unlock()
	exchange.Put(x)
}

// hello reads the ClientHello, or fails x. It reports false when the client
// left without a word, as those do that only look whether somebody listens.
func (k *passed) hello(x *exchange.Exchange, limits *config.Limits) bool {
	k.SetLimit(limits.HeaderTimeout.D())
	k.SetTimeout(0)
	defer func() {
		k.SetLimit(0)
		k.SetTimeout(0)
	}()
	b, n, err := k.ReadBuffer()
	if err != nil {
		if errors.Is(err, wire.ErrTimeout) {
			x.Fail(helloLate.With(err))
		}
		return x.Problem != nil
	}
	defer b.Put()
	for {
		name, whole, err := parseHello(b.B[:n])
		if err == nil && !whole && n == len(b.B) {
			err = errHelloIn
		}
		switch {
		case err != nil:
			x.Fail(helloRefused.With(err))
			return true
		case whole:
			x.Request.Host = name
			k.first = slices.Clone(b.B[:n])
			return true
		}
		more, err := k.Read(b.B[n:])
		n += more
		switch {
		case errors.Is(err, wire.ErrTimeout):
			x.Fail(helloLate.With(err))
			return true
		case err != nil:
			x.Fail(helloRefused.With(err))
			return true
		}
	}
}

// sorry tells a TLS client by an alert (RFC 8446, section 6) why its connection
// ends.
func (k *passed) sorry(p *exchange.Problem) {
	const record, fatal = 21, 2
	if !k.e.tls || p == nil || p.Code == helloLate.Code {
		return
	}
	alert := byte(80) // internal_error
	switch {
	case p.Code == helloRefused.Code:
		alert = 50 // decode_error
	case p.Side == exchange.SideClient:
		alert = 112 // unrecognized_name
	}
	// There is nothing more to be done for a client that does not take it.
	_, _ = k.Write([]byte{record, 3, 3, 0, 2, fatal, alert})
}

// cut ends the connection, whatever it is at.
func (k *passed) cut() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.x != nil {
		k.x.Cancel(passCut.With(errCut))
		k.Hangup()
	}
}

// Raw implements h1.RawStream.
func (k *passed) Raw() (*wire.Conn, []byte) {
	first := k.first
	k.first = nil
	return k.Conn, first
}

var _ h1.RawStream = (*passed)(nil)
