package h1

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/h1/h1test"
	"gatehouse.dev/gatehouse/internal/wire"
)

func tableLimits() *Limits {
	return &Limits{
		HeaderBytes: 8192, Headers: 50, Body: 65536,
		HeaderTimeout: time.Minute, IdleTimeout: time.Minute, HalfClose: time.Minute,
	}
}

// rig is a server on a loopback socket.
type rig struct {
	t       testing.TB
	s       *Server
	address string
	sweeper *wire.Sweeper
	conns   sync.WaitGroup
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
	r := &rig{t: t, s: s, address: ln.Addr().String(), sweeper: wire.NewSweeper()}
	accepting := make(chan struct{})
	go func() {
		defer close(accepting)
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			r.conns.Go(func() { r.s.Serve(wire.New(nc, r.sweeper), &exchange.Client{IP: "127.0.0.1"}) })
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

// connected returns both ends of a connection. Whoever gets them closes them.
func connected(t testing.TB) (here, there net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if here, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if there, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	return here, there
}

func newSweeper(t testing.TB) *wire.Sweeper {
	s := wire.NewSweeper()
	t.Cleanup(s.Close)
	return s
}

// client is a connection to a rig.
type client struct {
	t testing.TB
	*net.TCPConn
	r *bufio.Reader
}

func (r *rig) dial() *client {
	r.t.Helper()
	nc, err := net.Dial("tcp", r.address)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		r.t.Fatal(err)
	}
	return &client{r.t, nc.(*net.TCPConn), bufio.NewReader(nc)}
}

// send writes; a server that has closed already is no fault.
func (c *client) send(s string) {
	_, _ = io.WriteString(c.TCPConn, s)
}

// answer reads an answer with its body.
func (c *client) answer(method string) (*http.Response, string) {
	c.t.Helper()
	res, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		c.t.Fatalf("no answer: %v", err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatalf("body of an answer %d: %v", res.StatusCode, err)
	}
	return res, string(body)
}

// expect reads exactly s.
func (c *client) expect(s string) {
	c.t.Helper()
	got := make([]byte, len(s))
	n, err := io.ReadFull(c.r, got)
	if err != nil || string(got) != s {
		c.t.Fatalf("want %q, have %q, %v", s, got[:n], err)
	}
}

// expectEnd reads the end of the connection.
func (c *client) expectEnd() {
	c.t.Helper()
	if rest, err := io.ReadAll(c.r); err != nil || len(rest) > 0 {
		c.t.Fatalf("want the end of the connection, have %q, %v", rest, err)
	}
}

// Handlers, and what they are made of.
var (
	finish    = h1test.Finish
	reply     = h1test.Reply
	readBody  = h1test.ReadBody
	echo      = h1test.Echo
	fieldText = h1test.FieldText
)

const simple = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
