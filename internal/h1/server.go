package h1

import (
	"sync"
	"sync/atomic"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// Limits bounds what a client may send and how slowly. A zero is no limit,
// except for HeaderBytes and Headers, which must be set.
type Limits struct {
	HeaderBytes     int           // most bytes of a head, its request line included
	Headers         int           // most field lines of a head or trailer section
	Body            int64         // most bytes of a body
	HeaderTimeout   time.Duration // from the first byte of a head to its last
	IdleTimeout     time.Duration // between requests, and for bodies and answers that make no progress
	HalfClose       time.Duration // how long a client that sends no more may wait for its answer
	BodyMinRate     int64         // least bytes a second of a body, after its first 5 seconds
	RequestsPerConn int
}

// Server serves HTTP/1.1 connections. Handler and Limits must be set before
// the first one; Limits may be exchanged at any time and holds from the next
// request on.
type Server struct {
	// Handler answers an exchange through its Down. It returns when the
	// answer is finished, aborted, or the upgraded connection has ended.
	Handler func(*exchange.Exchange)
	// Refused, when set, is shown exchanges that were answered with their
	// Problem before Handler could see them.
	Refused func(*exchange.Exchange)
	// Panicked, when set, is told of panics outside Handler, which ends them
	// itself. The connection is closed, and the others go on.
	Panicked func(v any)
	Limits   atomic.Pointer[Limits]

	draining atomic.Bool
	dates    exchange.DateText

	mu    sync.Mutex
	conns map[*conn]struct{}
}

// Drain lets every connection end as soon as it has nothing in flight: idle
// ones now, the others with the answer they are at.
func (s *Server) Drain() {
	s.draining.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.conns {
		if k.state.CompareAndSwap(idle, drained) {
			k.c.Interrupt()
		}
	}
}

// Cut ends every connection, whatever it is at. Serve returns soon after.
func (s *Server) Cut() {
	s.draining.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.conns {
		k.c.Hangup()
	}
}

func (s *Server) enter(k *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		s.conns = make(map[*conn]struct{})
	}
	s.conns[k] = struct{}{}
}

func (s *Server) leave(k *conn) {
	s.mu.Lock()
	delete(s.conns, k)
	s.mu.Unlock()
}
