package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
)

// The chaos suite: services on real sockets do what services do on bad days,
// and each scenario says how many of the clients' requests may fail.

// mortal is a service that can die and come back at its address.
type mortal struct {
	t       testing.TB
	address string
	asked   atomic.Int64

	mu    sync.Mutex
	serve func(*peer)
	s     *service
}

func newMortal(t testing.TB, address string, serve func(*peer)) *mortal {
	t.Helper()
	m := &mortal{t: t, address: address, serve: serve}
	m.revive()
	t.Cleanup(m.kill)
	return m
}

// kill closes the listener and every connection, as the end of a process does.
func (m *mortal) kill() {
	m.mu.Lock()
	s := m.s
	m.s = nil
	m.mu.Unlock()
	if s != nil {
		s.close()
	}
}

// revive listens again.
func (m *mortal) revive() {
	ln, err := net.Listen("tcp", m.address)
	if err != nil {
		m.t.Error(err)
		return
	}
	m.address = ln.Addr().String()
	s := &service{t: m.t, ln: ln, over: make(chan struct{})}
	s.serve = func(p *peer) {
		m.mu.Lock()
		serve := m.serve
		m.mu.Unlock()
		serve(p)
	}
	s.pending.Go(s.accept)
	m.mu.Lock()
	m.s = s
	m.mu.Unlock()
}

// become changes what it does with connections that come from now on.
func (m *mortal) become(serve func(*peer)) {
	m.mu.Lock()
	m.serve = serve
	m.mu.Unlock()
}

// chaos is a scenario under way.
type chaos struct {
	t        *testing.T
	r        *rig
	m        []*mortal
	client   *http.Client
	failures atomic.Int64
	requests atomic.Int64
	method   string
	body     string
}

// plainClient returns a client that sends nothing again by itself.
func plainClient() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second}
}

// send sends so many requests, so many at a time.
func (c *chaos) send(requests, workers int) {
	var left atomic.Int64
	left.Store(int64(requests))
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				c.one()
			}
		})
	}
	wg.Wait()
}

// one sends a request and counts it when it fails: with a status of 5xx, or an
// answer that is not whole.
func (c *chaos) one() bool {
	c.requests.Add(1)
	var body io.Reader
	if c.body != "" {
		body = strings.NewReader(c.body)
	}
	req, err := http.NewRequest(c.method, "http://"+c.r.address+"/", body)
	if err != nil {
		c.t.Error(err)
		return false
	}
	res, err := c.client.Do(req)
	if err == nil {
		_, err = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if err == nil && res.StatusCode >= 500 {
			err = errors.New(res.Status)
		}
	}
	if err != nil {
		c.failures.Add(1)
	}
	<-c.r.seen
	<-c.r.ended
	return err == nil
}

// until sends requests until one succeeds. They do not count.
func (c *chaos) until() {
	f, n := c.failures.Load(), c.requests.Load()
	for end := time.Now().Add(20 * time.Second); !c.one(); time.Sleep(10 * ms) {
		if time.Now().After(end) {
			c.t.Fatal("it never comes back")
		}
	}
	c.failures.Store(f)
	c.requests.Store(n)
}

func answers(s string) func(*peer) {
	return func(p *peer) {
		for p.request() != nil {
			p.send(s)
		}
	}
}

// polite reads a request to its end and answers it.
func polite(p *peer) {
	for {
		r := p.request()
		if r == nil {
			return
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		p.send(whole)
	}
}

const whole = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"

// everyNth answers that request of a service badly.
func everyNth(n int64, bad func(*peer)) func(*peer) {
	var count atomic.Int64
	return func(p *peer) {
		for {
			r := p.request()
			if r == nil {
				return
			}
			io.Copy(io.Discard, r.Body)
			if count.Add(1)%n == 0 {
				bad(p)
				return
			}
			p.send(whole)
		}
	}
}

func resets(p *peer) {
	if c, ok := p.Conn.(*net.TCPConn); ok {
		c.SetLinger(0)
	}
	p.Close()
}

// drips answers byte by byte, so slowly that it never ends.
func drips(p *peer) {
	for p.request() != nil {
		p.send("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
		for {
			if _, err := p.Write([]byte("x")); err != nil {
				return
			}
			select {
			case <-p.over:
				return
			case <-time.After(10 * ms):
			}
		}
	}
}

// resilient has most things on, and is quick about it.
func resilient(c *config.Upstream) {
	retries(func(r *config.Retry) {
		r.On = config.StringList{"connect", "reset", "timeout", "malformed", "502", "503", "504"}
		r.TryTimeout = dur(300 * ms)
		r.Attempts = 3
		r.Budget = 1
		r.Backoff = config.Backoff{Base: dur(5 * ms), Max: dur(50 * ms)}
	})(c)
	outliers(nil)(c)
	c.Connections.ConnectTimeout = dur(300 * ms)
}

// patient gives a polite endpoint on a busy machine the time that it needs.
func patient(c *config.Upstream) {
	c.Retry.TryTimeout, c.Connections.ConnectTimeout = dur(5*time.Second), dur(5*time.Second)
}

type scenario struct {
	name     string
	serve    []func(*peer) // one for each endpoint
	cfg      func(c *config.Upstream)
	method   string
	body     string
	requests int
	workers  int
	allowed  int64
	run      func(c *chaos) // beside, or instead of, the requests
}

func scenarios() []scenario {
	bad := func(s string) []func(*peer) { return []func(*peer){polite, answers(s)} }
	list := []scenario{
		{name: "refuses", run: func(c *chaos) { c.m[1].kill() }},
		{name: "refuses POST", method: "POST", body: "hello", run: func(c *chaos) { c.m[1].kill() }},
		{name: "accepts and hangs", serve: []func(*peer){polite, hang}},
		{name: "accepts and closes", serve: []func(*peer){polite, func(*peer) {}}},
		{name: "accepts and resets", serve: []func(*peer){polite, resets}},
		{name: "reads and closes", serve: []func(*peer){polite, func(p *peer) { p.request() }}},
		{name: "reads and resets", serve: []func(*peer){polite, func(p *peer) { p.request(); resets(p) }}},
		{name: "closes in the middle of the head", serve: []func(*peer){polite, func(p *peer) { p.request(); p.send("HTTP/1.1 200 OK\r\nContent-Le") }}},
		{name: "hangs in the middle of the head", serve: []func(*peer){polite, func(p *peer) { p.request(); p.send("HTTP/1.1 200 OK\r\nContent-Le"); hang(p) }}},
		// What the client has seen of an answer cannot be taken back.
		{name: "closes in the middle of the body", allowed: 5, serve: []func(*peer){polite, func(p *peer) { p.request(); p.send(whole[:len(whole)-2]) }}},
		{name: "resets in the middle of the body", allowed: 5, serve: []func(*peer){polite, func(p *peer) { p.request(); p.send(whole[:len(whole)-2]); resets(p) }}},
		// Nor what is under way when the endpoint is found out: five errors in a
		// row eject it, and by then each of the other three workers may wait for
		// an answer of it. It has no success that would begin the row anew.
		{name: "hangs in the middle of the body", allowed: 5 + 3, requests: 40, workers: 4, cfg: func(c *config.Upstream) {
			c.Timeout.Idle = dur(time.Second)
			patient(c)
		}, serve: []func(*peer){polite, func(p *peer) { p.request(); p.send(whole[:len(whole)-2]); hang(p) }}},
		{name: "drips byte by byte", allowed: 5 + 3, requests: 30, workers: 4, cfg: func(c *config.Upstream) {
			c.Timeout.Request = dur(2 * time.Second)
			patient(c)
		}, serve: []func(*peer){polite, drips}},
		{name: "sends garbage", serve: bad("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")},
		{name: "sends an endless head", serve: bad("HTTP/1.1 200 OK\r\n" + strings.Repeat("X: "+strings.Repeat("y", 1000)+"\r\n", 200))},
		{name: "sends two lengths", serve: bad("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello")},
		{name: "switches protocols unasked", serve: bad("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")},
		{name: "sends more than it announced", serve: bad(whole + "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")},
		{name: "answers 503", serve: bad("HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n")},
		{name: "answers 503 for a while", serve: bad("HTTP/1.1 503 X\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n")},
		{name: "answers 500, which is not retried", allowed: 5, serve: bad("HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n")},
		{name: "closes kept connections", serve: []func(*peer){everyNth(2, func(*peer) {}), everyNth(2, func(*peer) {})}},
		{name: "every tenth answer is reset", serve: []func(*peer){everyNth(10, resets), everyNth(10, resets)}},
		{name: "POST meets a reset", method: "POST", body: "hello", allowed: 5, serve: []func(*peer){polite, func(p *peer) { p.request(); resets(p) }}},
		{name: "PUT meets a reset", method: "PUT", body: "hello", serve: []func(*peer){polite, func(p *peer) { p.request(); resets(p) }}},
	}
	return slices.Concat(list, lives(), loads())
}

// lives are the scenarios in which services come and go.
func lives() []scenario {
	return []scenario{
		{name: "flaps", workers: 4, requests: 400, run: func(c *chaos) {
			c.beside(func(stop <-chan struct{}) {
				for {
					c.m[1].kill()
					if !pause(stop, 10*ms) {
						c.m[1].revive()
						return
					}
					c.m[1].revive()
					if !pause(stop, 10*ms) {
						return
					}
				}
			})
		}},
		{name: "dies under load and returns", workers: 8, requests: 400, run: func(c *chaos) {
			c.beside(func(stop <-chan struct{}) {
				pause(stop, 20*ms)
				c.m[1].kill()
				pause(stop, 50*ms)
				c.m[1].revive()
			})
		}},
		// What it had received of requests that must not be sent twice is lost.
		{name: "dies under a load of POST", method: "POST", body: "hello", workers: 4, requests: 400, allowed: 4, run: func(c *chaos) {
			c.beside(func(stop <-chan struct{}) {
				pause(stop, 20*ms)
				c.m[1].kill()
			})
		}},
		{name: "all are down, and come back", requests: 20, allowed: 20, run: func(c *chaos) {
			for _, m := range c.m {
				m.kill()
			}
			c.send(20, 1)
			for _, m := range c.m {
				m.revive()
			}
			c.until()
			c.send(50, 4)
		}},
		{name: "checks notice that all are down", requests: 20, allowed: 20, cfg: func(c *config.Upstream) {
			checked(func(h *config.Health) { h.Interval, h.Timeout = dur(100*ms), dur(100*ms) })(c)
		}, run: func(c *chaos) {
			for _, m := range c.m {
				m.kill()
			}
			for c.r.u.Available() {
				time.Sleep(10 * ms)
			}
			c.send(20, 1)
			for _, m := range c.m {
				m.revive()
			}
			c.until()
			for c.r.u.Status().Endpoints[0].State != "healthy" || c.r.u.Status().Endpoints[1].State != "healthy" {
				time.Sleep(10 * ms)
			}
			c.send(50, 4)
		}},
		{name: "checks notice what answers nobody", requests: 100, cfg: func(c *config.Upstream) {
			checked(func(h *config.Health) { h.Interval, h.Timeout = dur(100*ms), dur(100*ms) })(c)
			c.Retry = nil
		}, serve: []func(*peer){polite, hang}, run: func(c *chaos) {
			for c.r.u.Status().Endpoints[1].State != "unhealthy" {
				time.Sleep(10 * ms)
			}
		}},
	}
}

// loads are the scenarios in which endpoints cannot keep up, or all begin anew.
func loads() []scenario {
	return []scenario{
		// Each of the two deaths may cut an answer of every worker.
		{name: "thundering restart", workers: 20, requests: 400, allowed: 40, cfg: func(c *config.Upstream) {
			c.Retry.Attempts, c.Retry.Backoff = 10, config.Backoff{Base: dur(200 * ms), Max: dur(400 * ms)}
		}, run: func(c *chaos) {
			c.beside(func(stop <-chan struct{}) {
				pause(stop, 20*ms)
				for _, m := range c.m {
					m.kill()
				}
				pause(stop, 50*ms)
				for _, m := range c.m {
					m.revive()
				}
			})
		}},
		{
			name: "one is 20 times slower", workers: 4, requests: 200, cfg: func(c *config.Upstream) { c.Balance.Algorithm = "ewma" },
			serve: []func(*peer){lazy(5 * ms), lazy(5 * ms), lazy(100 * ms)}, run: func(c *chaos) {
				c.send(200, 4)
				if n := c.asked(2); n > 60 {
					c.t.Errorf("the slow one was asked %d times of 200", n)
				}
			},
		},
		{name: "one is slow, and is hedged", workers: 2, requests: 60, cfg: func(c *config.Upstream) {
			c.Hedge = &config.Hedge{After: "20ms", Budget: 1}
			c.Retry = nil
		}, serve: []func(*peer){polite, lazy(2 * time.Second)}},
		{name: "more than the service takes, and a queue", workers: 20, requests: 200, serve: []func(*peer){lazy(2 * ms), lazy(2 * ms)}, cfg: func(c *config.Upstream) {
			c.Connections.MaxPerEndpoint = 1
			c.Queue = &config.Queue{Max: 100, Timeout: dur(20 * time.Second)}
		}},
	}
}

// lazy answers after a while.
func lazy(after time.Duration) func(*peer) {
	return func(p *peer) {
		for p.request() != nil {
			time.Sleep(after)
			p.send(whole)
		}
	}
}

// pause waits, and reports false when there is nothing to wait for any more.
func pause(stop <-chan struct{}, d time.Duration) bool {
	select {
	case <-stop:
		return false
	case <-time.After(d):
		return true
	}
}

// beside runs something while the scenario's requests are sent.
func (c *chaos) beside(f func(stop <-chan struct{})) {
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		f(stop)
	}()
	c.t.Cleanup(func() { <-done })
	c.t.Cleanup(func() { close(stop) })
}

// asked returns how many requests came to an endpoint.
func (c *chaos) asked(n int) int64 { return c.m[n].asked.Load() }

func TestChaos(t *testing.T) {
	for _, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			c := &chaos{t: t, method: s.method, body: s.body, client: plainClient()}
			if c.method == "" {
				c.method = "GET"
			}
			if s.serve == nil {
				s.serve = []func(*peer){polite, hello}
			}
			var urls []string
			for _, serve := range s.serve {
				m := newMortal(t, "127.0.0.1:0", nil)
				m.become(func(p *peer) {
					p.onRequest = func() { m.asked.Add(1) }
					serve(p)
				})
				c.m = append(c.m, m)
				urls = append(urls, "http://"+m.address)
			}
			cfg := settings(urls...)
			resilient(cfg)
			if s.cfg != nil {
				s.cfg(cfg)
			}
			c.r = newRig(t, cfg)
			if s.run != nil {
				s.run(c)
			}
			if n := c.requests.Load(); n == 0 {
				if s.requests == 0 {
					s.requests = 100
				}
				c.send(s.requests, max(s.workers, 1))
			}
			if n := c.failures.Load(); n > s.allowed {
				t.Errorf("%d of %d requests failed, %d may", n, c.requests.Load(), s.allowed)
			}
		})
	}
}

// fickle is a resolver that a test makes fail, hang, or tell nothing.
type fickle struct {
	mu   sync.Mutex
	mode string
	at   []string
	told chan struct{} // one for each answer
}

func (f *fickle) become(mode string, at ...string) {
	f.mu.Lock()
	f.mode = mode
	if at != nil {
		f.at = at
	}
	f.mu.Unlock()
}

func (f *fickle) LookupNetIP(ctx context.Context, _, _ string) ([]netip.Addr, error) {
	f.mu.Lock()
	mode, at := f.mode, f.at
	f.mu.Unlock()
	select {
	case f.told <- struct{}{}:
	default:
	}
	switch mode {
	case "fails":
		return nil, errors.New("server misbehaving")
	case "hangs":
		<-ctx.Done()
		return nil, ctx.Err()
	case "empties":
		return nil, nil
	}
	var out []netip.Addr
	for _, a := range at {
		out = append(out, netip.MustParseAddr(a))
	}
	return out, nil
}

// What a name server does is no reason for a request to fail.
func TestChaosOfNames(t *testing.T) {
	for _, mode := range []string{"fails", "hangs", "empties", "moves"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			first := newMortal(t, "127.0.0.1:0", polite)
			_, port, err := net.SplitHostPort(first.address)
			if err != nil {
				t.Fatal(err)
			}
			second := newMortal(t, "127.0.0.2:"+port, polite)
			f := &fickle{at: []string{"127.0.0.1"}, told: make(chan struct{}, 1)}
			cfg := settings()
			cfg.Discovery = &config.Discovery{DNS: "products.internal:" + port, Interval: dur(20 * ms), Scheme: "http", AllowLocal: true}
			resilient(cfg)
			c := &chaos{t: t, method: "GET", client: plainClient()}
			c.r = newRigWith(t, cfg, f, nil)
			c.send(20, 2)
			if mode == "moves" {
				f.become("", "127.0.0.2")
			} else {
				f.become(mode)
			}
			for range 3 {
				select {
				case <-f.told:
				case <-time.After(100 * ms): // it hangs
				}
			}
			c.send(50, 4)
			if mode == "moves" {
				for addresses(c.r.u) != second.address {
					time.Sleep(ms)
				}
				first.kill()
			}
			c.send(50, 4)
			f.become("", "127.0.0.2")
			for addresses(c.r.u) != second.address && mode != "hangs" {
				time.Sleep(ms)
			}
			c.send(50, 4)
			if n := c.failures.Load(); n != 0 {
				t.Errorf("%d of %d requests failed, none may", n, c.requests.Load())
			}
		})
	}
}
