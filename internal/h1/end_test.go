package h1

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/wire"
)

func TestRequestsPerConnection(t *testing.T) {
	l := tableLimits()
	l.RequestsPerConn = 3
	k := newRig(t, l, echo).dial()
	k.send(strings.Repeat(simple, 4))
	for i := range 3 {
		if res, _ := k.answer("GET"); res.Close != (i == 2) {
			t.Fatalf("answer %d: closes %v", i, res.Close)
		}
	}
	k.expectEnd()
}

func TestDrain(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	r := newRig(t, tableLimits(), func(x *exchange.Exchange) {
		if x.Request.Path == "/slow" {
			entered <- struct{}{}
			<-leave
		}
		reply(x, "")
	})
	idle, running := r.dial(), r.dial()
	idle.send(simple)
	idle.answer("GET")
	running.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
	<-entered
	r.s.Drain()
	idle.expectEnd()
	close(leave)
	if res, _ := running.answer("GET"); !res.Close {
		t.Fatal("answer does not say that the connection ends")
	}
	running.expectEnd()
	late := r.dial()
	late.send(simple)
	if res, _ := late.answer("GET"); !res.Close {
		t.Fatal("answer on a late connection does not say that it ends")
	}
	late.expectEnd()
}

func TestDrainEndsSleepingConnections(t *testing.T) {
	r := newRig(t, tableLimits(), echo)
	k := r.dial()
	for range 2 {
		k.send(simple)
		k.answer("GET")
		pass(t, newSweeper(t), quiet+3*wire.Tick)
	}
	r.s.Drain()
	k.expectEnd()
}

// pass lets a sweeper's time pass.
func pass(t *testing.T, s *wire.Sweeper, d time.Duration) {
	p, q := net.Pipe()
	defer q.Close()
	c := wire.New(p, s)
	defer c.Close()
	c.SetTimeout(d)
	if err := c.WaitReadable(); !errors.Is(err, wire.ErrTimeout) {
		t.Error(err)
	}
}

// A request that comes while the server begins to drain is answered, or the
// connection ends without a byte.
func TestDrainMeetsARequest(t *testing.T) {
	for range 200 {
		r := newRig(t, tableLimits(), echo)
		k := r.dial()
		k.send(simple)
		k.answer("GET")
		go r.s.Drain()
		k.send(simple)
		res, err := http.ReadResponse(k.r, nil)
		if err == nil && res.StatusCode != 200 {
			t.Fatalf("status %d", res.StatusCode)
		}
		k.Close()
	}
}

func TestCutEndsWhatRuns(t *testing.T) {
	entered := make(chan struct{})
	r := newRig(t, tableLimits(), func(x *exchange.Exchange) {
		close(entered)
		w := newWaiter()
		if err := x.Bind(w); err == nil {
			<-w.woken
		}
		if err := x.Bind(nil); !errors.Is(err, exchange.ErrClientGone) {
			t.Error(err)
		}
		x.Down.Abort()
	})
	k := r.dial()
	k.send(simple)
	<-entered
	r.s.Cut()
	r.conns.Wait()
}

// waiter is something an exchange waits on.
type waiter struct{ woken chan struct{} }

func newWaiter() *waiter { return &waiter{make(chan struct{})} }

func (w *waiter) Interrupt() { close(w.woken) }

func TestClientThatGoesAwayCancelsTheExchange(t *testing.T) {
	done := make(chan error, 1)
	r := newRig(t, tableLimits(), func(x *exchange.Exchange) {
		w := newWaiter()
		if err := x.Bind(w); err == nil {
			<-w.woken
		}
		done <- x.Bind(nil)
		x.Down.Abort()
	})
	k := r.dial()
	k.send(simple)
	if err := k.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	k.Close()
	if err := <-done; !errors.Is(err, exchange.ErrClientGone) {
		t.Fatal(err)
	}
}

func TestHalfClosedClientIsServed(t *testing.T) {
	sweeper := newSweeper(t)
	r := newRig(t, tableLimits(), func(x *exchange.Exchange) {
		// Long enough for the sweeper to have seen the half-closed client.
		pass(t, sweeper, 3*wire.Tick)
		reply(x, "hello")
	})
	k := r.dial()
	k.send(simple)
	if err := k.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, body := k.answer("GET"); body != "hello" {
		t.Fatalf("%q", body)
	}
	k.expectEnd()
}

// A client over TLS that reads nothing more is let go with its connection, and
// neither the answer nor what TLS says in the end waits for it.
func TestStalledClientOverTLSIsLetGo(t *testing.T) {
	certificates := httptest.NewTLSServer(nil)
	defer certificates.Close()
	l := tableLimits()
	l.IdleTimeout = 3 * wire.Tick
	failed := make(chan error, 1)
	s := &Server{Handler: func(x *exchange.Exchange) {
		x.Response.Status, x.Response.Length = 200, 1<<30
		err := x.Down.WriteHead(x)
		for err == nil {
			err = x.Down.WriteBody(make([]byte, 64<<10))
		}
		failed <- err
		x.Down.Abort()
	}}
	s.Limits.Store(l)
	nc, there := connected(t)
	defer nc.Close()
	asked := make(chan error, 1)
	go func() {
		_, err := io.WriteString(tls.Client(nc, &tls.Config{InsecureSkipVerify: true}), simple)
		asked <- err
	}()
	c := wire.New(there, newSweeper(t))
	over := tls.Server(c.Socket(), &tls.Config{Certificates: certificates.TLS.Certificates})
	if err := over.Handshake(); err != nil {
		t.Fatal(err)
	}
	c.Secure(over)
	s.Serve(c, &exchange.Client{})
	if err := <-failed; !errors.Is(err, wire.ErrTimeout) {
		t.Errorf("the answer ended with %v", err)
	}
	if err := <-asked; err != nil {
		t.Error(err)
	}
}
