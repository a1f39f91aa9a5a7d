package upstream

import (
	"bufio"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/h1"
	"gatehouse.dev/gatehouse/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service stands for what is behind the gateway: one that does with its
// connections whatever a test wants.
type service struct {
	t       testing.TB
	ln      net.Listener
	serve   func(*peer)
	mu      sync.Mutex
	peers   []*peer
	pending sync.WaitGroup
	over    chan struct{}
}

// peer is a connection to a service.
type peer struct {
	t testing.TB
	net.Conn
	r      *bufio.Reader
	number int           // of the connection, counted from 1
	over   chan struct{} // closed when the test ends

	onRequest func() // told of each request, may be nil
}

func newService(t testing.TB, serve func(*peer)) *service {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, ln, serve)
}

func serveOn(t testing.TB, ln net.Listener, serve func(*peer)) *service {
	s := &service{t: t, ln: ln, serve: serve, over: make(chan struct{})}
	s.pending.Go(s.accept)
	t.Cleanup(s.close)
	return s
}

func (s *service) accept() {
	for {
		nc, err := s.ln.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		p := &peer{t: s.t, Conn: nc, r: bufio.NewReaderSize(nc, 64<<10), number: len(s.peers) + 1, over: s.over}
		s.peers = append(s.peers, p)
		s.mu.Unlock()
		s.pending.Go(func() {
			defer nc.Close()
			s.serve(p)
		})
	}
}

func (s *service) close() {
	s.ln.Close()
	close(s.over)
	s.mu.Lock()
	for _, p := range s.peers {
		p.Conn.Close()
	}
	s.mu.Unlock()
	s.pending.Wait()
}

// connections returns how many connections there were so far.
func (s *service) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.peers)
}

func (s *service) url() string { return "http://" + s.ln.Addr().String() }

// request reads a request's head, or returns nil at the end.
func (p *peer) request() *http.Request {
	r, err := http.ReadRequest(p.r)
	if err != nil {
		return nil
	}
	if p.onRequest != nil {
		p.onRequest()
	}
	return r
}

func (p *peer) send(s string) {
	// A gateway that has closed is what some tests want.
	_, _ = io.WriteString(p.Conn, s)
}

// hello answers every request with a short body.
func hello(p *peer) {
	for p.request() != nil {
		p.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
	}
}

func settings(urls ...string) *config.Upstream {
	cfg := &config.Upstream{
		Balance:     config.Balance{Algorithm: "round_robin", Slack: 0.25, SpillBelow: 0.7},
		Connections: config.Connections{Idle: 100, IdleTimeout: config.Duration(time.Minute), ConnectTimeout: config.Duration(5 * time.Second)},
		Timeout:     config.Timeout{FirstByte: config.Duration(10 * time.Second), Request: config.Duration(30 * time.Second), Idle: config.Duration(20 * time.Second)},
		Host:        "preserve",
	}
	for _, u := range urls {
		cfg.Endpoints = append(cfg.Endpoints, &config.Endpoint{URL: u, Weight: 1})
	}
	return cfg
}

// rig is clients, a gateway that only proxies, and an upstream.
type rig struct {
	policy  atomic.Pointer[func(*exchange.Exchange)] // what is done with an exchange beforehand
	t       testing.TB
	u       *Upstream
	s       h1.Server
	address string
	sweeper *wire.Sweeper
	conns   sync.WaitGroup
	meter   *counts
	seen    chan exchange.Upstream // where answers came from
	ended   chan *exchange.Problem // what exchanges ended with
}

func newRig(t testing.TB, cfg *config.Upstream) *rig {
	t.Helper()
	return newRigWith(t, cfg, nil, nil)
}

// newRigWith makes a rig whose upstream is changed before it is used.
func newRigWith(t testing.TB, cfg *config.Upstream, resolver Resolver, change func(*Upstream)) *rig {
	t.Helper()
	r := &rig{t: t, sweeper: wire.NewSweeper(), meter: new(counts), seen: make(chan exchange.Upstream, 1000), ended: make(chan *exchange.Problem, 1000)}
	var err error
	r.u, err = New("test", cfg, Options{Sweeper: r.sweeper, Log: slog.New(slog.DiscardHandler), Meter: r.meter, Resolver: resolver})
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(r.u)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.address = ln.Addr().String()
	r.s.Handler = r.handle
	r.s.Limits.Store(&h1.Limits{
		HeaderBytes: 32 << 10, Headers: 100, HeaderTimeout: time.Minute,
		IdleTimeout: time.Minute, HalfClose: time.Minute,
	})
	r.conns.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			r.conns.Go(func() { r.s.Serve(wire.New(nc, r.sweeper), &exchange.Client{}) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		r.s.Cut()
		r.conns.Wait()
		r.u.Retire()
		if n := r.u.open.Load(); n != 0 {
			t.Errorf("%d connections are still counted after the end", n)
		}
		m := r.meter
		if m.opened.Load() != m.closed.Load() || m.idle.Load() != 0 || m.tunnels.Load() != 0 {
			t.Errorf("after the end the meter has %d opened, %d closed, %d idle, %d tunnels",
				m.opened.Load(), m.closed.Load(), m.idle.Load(), m.tunnels.Load())
		}
		r.sweeper.Close()
	})
	return r
}

// counts is a Meter.
type counts struct {
	opened, failed, closed, idle, tunnels, reused, retried, answers atomic.Int64

	mu     sync.Mutex
	events map[string]int
}

func (c *counts) Opened(uint32)                   { c.opened.Add(1) }
func (c *counts) Failed(uint32)                   { c.failed.Add(1) }
func (c *counts) Closed(uint32)                   { c.closed.Add(1) }
func (c *counts) Idle(_ uint32, n int)            { c.idle.Add(int64(n)) }
func (c *counts) Tunnels(_ uint32, n int)         { c.tunnels.Add(int64(n)) }
func (c *counts) Reused(uint32)                   { c.reused.Add(1) }
func (c *counts) Retried(uint32)                  { c.retried.Add(1) }
func (c *counts) FirstByte(uint32, time.Duration) { c.answers.Add(1) }

func (c *counts) Event(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.events == nil {
		c.events = make(map[string]int)
	}
	c.events[name]++
}

// event returns how often something happened.
func (c *counts) event(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.events[name]
}

// handle does what the gateway does around an upstream.
func (r *rig) handle(x *exchange.Exchange) {
	if f := r.policy.Load(); f != nil {
		(*f)(x)
	}
	r.u.Serve(x)
	r.seen <- x.Upstream
	r.answer(x)
	x.Response.Body.Close()
	x.Response.Body = exchange.NoBody
	r.ended <- x.Problem
}

func (r *rig) answer(x *exchange.Exchange) {
	if x.Problem != nil {
		if x.Problem.Status == exchange.StatusClientGone {
			x.Down.Abort()
			return
		}
		x.Render()
	}
	if t, ok := x.Response.Body.(exchange.Tunnel); ok && x.Response.Status == 101 {
		stream, err := x.Down.Upgrade(x)
		if err == nil {
			err = t.Join(x, stream)
		}
		if err != nil {
			x.Fail(clientGone.With(err))
		}
		return
	}
	writeErr := x.Down.WriteHead(x)
	var readErr error
	if writeErr == nil {
		readErr, writeErr = x.Down.WriteFrom(x)
	}
	if readErr == nil && writeErr == nil {
		writeErr = x.Down.Finish(x)
	}
	switch {
	case writeErr != nil || readErr != nil && x.Canceled() != nil:
		x.Down.Abort()
		x.Fail(clientGone.With(errors.Join(readErr, writeErr)))
	case readErr != nil:
		x.Down.Abort()
		x.Fail(reset.With(readErr))
	}
}

// client is a connection to the gateway.
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

func (c *client) send(s string) {
	if _, err := io.WriteString(c.TCPConn, s); err != nil {
		c.t.Error(err)
	}
}

// head reads an answer's head.
func (c *client) head(method string) *http.Response {
	c.t.Helper()
	res, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		c.t.Fatalf("no answer: %v", err)
	}
	return res
}

// answer reads a whole answer. err is that of its body.
func (c *client) answer(method string) (res *http.Response, body string, err error) {
	c.t.Helper()
	for res = c.head(method); res.StatusCode/100 == 1; res = c.head(method) {
	}
	b, err := io.ReadAll(res.Body)
	return res, string(b), err
}

// wants reads an answer and compares it.
func (c *client) wants(status int, body string) *http.Response {
	c.t.Helper()
	res, got, err := c.answer("GET")
	if err != nil || res.StatusCode != status || got != body {
		c.t.Fatalf("want %d %q, have %d %q, %v", status, body, res.StatusCode, got, err)
	}
	return res
}

// fails reads an answer that is a problem with that code.
func (c *client) fails(status int, code string) *http.Response {
	c.t.Helper()
	res, got, err := c.answer("GET")
	if err != nil || res.StatusCode != status || !strings.Contains(got, `"code":"`+code+`"`) {
		c.t.Fatalf("want %d %s, have %d %q, %v", status, code, res.StatusCode, got, err)
	}
	return res
}

// opens waits until so many connections are counted as open.
func (r *rig) opens(n int64) {
	r.t.Helper()
	for end := time.Now().Add(10 * time.Second); r.u.open.Load() != n; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("%d connections are open, want %d", r.u.open.Load(), n)
		}
	}
}

// deadAddress returns an address where nobody listens.
func deadAddress(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	return ln.Addr().String()
}

const get = "GET /path?q=1 HTTP/1.1\r\nHost: shop.example\r\n\r\n"
