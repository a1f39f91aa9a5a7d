package h2

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
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

// finish writes x.Response as gateway does.
func finish(x *exchange.Exchange) {
	if x.Problem != nil {
		x.Render()
	}
	if err := x.Down.WriteHead(x); err != nil {
		x.Down.Abort()
		return
	}
	x.Response.HeadSent = true
	readErr, writeErr := x.Down.WriteFrom(x)
	if readErr != nil || writeErr != nil {
		x.Down.Abort()
		return
	}
	if err := x.Down.Finish(x); err != nil {
		x.Down.Abort()
	}
}

// reply answers 200 with a body.
func reply(x *exchange.Exchange, body string) {
	x.Response.Status = 200
	x.Response.SetBody([]byte(body))
	finish(x)
}

// readBody reads the request's body, or fails the exchange.
func readBody(x *exchange.Exchange) (string, bool) {
	var all []byte
	for {
		p, err := x.Request.Body.Next()
		if err == io.EOF {
			return string(all), true
		}
		if err != nil {
			var problem *exchange.Problem
			if !errors.As(err, &problem) {
				problem = &exchange.Problem{Status: exchange.StatusClientGone, Cause: err}
			}
			x.Fail(problem)
			return "", false
		}
		all = append(all, p...)
	}
}

// echo answers with the request's body.
func echo(x *exchange.Exchange) {
	if body, ok := readBody(x); ok {
		reply(x, body)
	} else {
		finish(x)
	}
}

func fieldText(h *exchange.Header) string {
	var b strings.Builder
	for name, value := range h.All() {
		b.WriteString(name + ": " + value + "\n")
	}
	return b.String()
}
