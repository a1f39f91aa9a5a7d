package h2

import (
	"sync"
	"sync/atomic"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/wire"
)

// Limits bounds what a client may send and how slowly. A zero is no limit,
// except for HeaderBytes, Headers and Streams, which must be set.
type Limits struct {
	HeaderBytes     int           // most bytes of a head or trailer section, counted as RFC 9113, section 10.5.1, does
	Headers         int           // most fields of a head or trailer section; parts of a cookie count each
	Body            int64         // most bytes of a body
	HeaderTimeout   time.Duration // from the first byte of a frame or head to its last
	IdleTimeout     time.Duration // without a stream; and for bodies and answers that make no progress
	BodyMinRate     int64         // least bytes a second of a body, after its first 5 seconds
	Streams         int           // most exchanges at the same time on a connection
	RequestsPerConn int           // after so many the client is asked to go elsewhere
}

// Server serves HTTP/2 connections. Handler and Limits must be set before the
// first one; Limits may be exchanged at any time and holds from the next
// connection on.
type Server struct {
	// Handler answers an exchange through its Down. It returns when the
	// answer is finished, aborted, or the tunnel has ended. It runs on a
	// goroutine of its own for each exchange.
	Handler func(*exchange.Exchange)
	// Refused, when set, is shown exchanges that were answered with their
	// Problem, or reset because of it, before Handler could see them.
	Refused func(*exchange.Exchange)
	Limits  atomic.Pointer[Limits]
	// Panicked, when set, is told of panics in reading a connection, which end
	// it and harm no other. Without it they end the program.
	Panicked func(v any)

	dates exchange.DateText
	held  atomic.Int32 // connections, after an offence

	mu       sync.Mutex
	draining bool
	conns    map[*conn]struct{}
}

// Serve serves a connection until it ends, and closes it. client describes its
// other end. The connection begins with the client's preface: TLS has
// negotiated "h2", or the client is known to speak it.
func (s *Server) Serve(c *wire.Conn, client *exchange.Client) {
	done := make(chan struct{})
	s.Start(c, client, func() { close(done) })
	<-done
}

// Start is Serve on a goroutine of its own. It calls ended when the connection
// has been closed and its last exchange is over.
func (s *Server) Start(c *wire.Conn, client *exchange.Client, ended func()) {
	s.Continue(c, client, nil, 0, ended)
}

// Continue is Start for a connection of which n bytes have been read into a
// buffer, for example to see that they are the preface. The buffer belongs to
// the server from then on.
func (s *Server) Continue(c *wire.Conn, client *exchange.Client, in *wire.Buffer, n int, ended func()) {
	k := &conn{s: s, client: client, limits: s.Limits.Load(), ended: ended}
	k.begin(c, k, resetBurst)
	k.held = &s.held
	k.frameFor, k.idleFor = k.limits.HeaderTimeout, k.limits.IdleTimeout
	s.mu.Lock()
	if s.conns == nil {
		s.conns = make(map[*conn]struct{})
	}
	s.conns[k] = struct{}{}
	draining := s.draining
	s.mu.Unlock()
	go k.run(in, n, draining)
}

// Drain lets every connection end as soon as it has nothing in flight, and
// tells its client so (RFC 9113, section 6.8).
func (s *Server) Drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	for k := range s.conns {
		k.mu.Lock()
		k.drain()
		k.mu.Unlock()
	}
}

// Cut ends every connection, whatever it is at. Serve returns soon after.
func (s *Server) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	for k := range s.conns {
		k.mu.Lock()
		k.hangUp(errCut)
		k.mu.Unlock()
	}
}

func (s *Server) leave(k *conn) {
	s.mu.Lock()
	delete(s.conns, k)
	s.mu.Unlock()
}
