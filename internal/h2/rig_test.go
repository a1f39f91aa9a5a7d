package h2

import (
	"net"
	"sync"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/h1/h1test"
	"gatehouse.dev/gatehouse/internal/wire"
)

func tableLimits() *Limits {
	return &Limits{
		HeaderBytes: 8192, Headers: 50, Body: 1 << 20, Streams: 100,
		HeaderTimeout: time.Minute, IdleTimeout: time.Minute,
	}
}

// rig is a server on a loopback socket.
type rig struct {
	t       testing.TB
	s       *Server
	address string
	sweeper *wire.Sweeper
	conns   sync.WaitGroup
	ended   chan bool // a connection has
}

func newRig(t testing.TB, l *Limits, handler func(*exchange.Exchange)) *rig {
	t.Helper()
	s := &Server{Handler: handler}
	s.Limits.Store(l)
	return rigOf(t, s)
}

func rigOf(t testing.TB, s *Server) *rig {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, s: s, address: ln.Addr().String(), sweeper: wire.NewSweeper(), ended: make(chan bool, 1000)}
	accepting := make(chan struct{})
	go func() {
		defer close(accepting)
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			r.conns.Go(func() {
				r.s.Serve(wire.New(nc, r.sweeper), &exchange.Client{IP: "127.0.0.1"})
				r.ended <- true
			})
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-accepting
		r.s.Cut()
		r.conns.Wait()
		r.sweeper.Close()
	})
	return r
}

// Handlers, and what they are made of.
var (
	finish    = h1test.Finish
	reply     = h1test.Reply
	readBody  = h1test.ReadBody
	echo      = h1test.Echo
	fieldText = h1test.FieldText
)
