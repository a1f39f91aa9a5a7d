package upstream

import (
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
)

// A service may close a kept connection just when a request is on its way.
func TestSendsAgainWhatADeadConnectionSwallowed(t *testing.T) {
	for _, c := range []struct {
		name, request string
		again         bool
	}{
		{"GET", get, true},
		{"PUT", "PUT / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello", true},
		{"DELETE", "DELETE / HTTP/1.1\r\nHost: a.example\r\n\r\n", true},
		{"POST", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello", false},
		{"PATCH", "PATCH / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello", false},
		{"POST without body", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n", false},
		{"unknown method", "BREW / HTTP/1.1\r\nHost: a.example\r\n\r\n", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			bodies := make(chan string, 10)
			s := newService(t, func(p *peer) {
				for n := 1; ; n++ {
					r := p.request()
					if r == nil {
						return
					}
					body, err := io.ReadAll(r.Body)
					if err != nil {
						t.Error(err)
					}
					bodies <- r.Method + " " + string(body)
					if p.number == 1 && n == 2 {
						return // without an answer
					}
					p.send(ok + "Content-Length: 5\r\n\r\nhello")
				}
			})
			r := newRig(t, settings(s.url()))
			k := r.dial()
			k.send(get)
			k.wants(200, "hello")
			<-bodies
			k.send(c.request)
			if c.again {
				k.wants(200, "hello")
				if first, second := <-bodies, <-bodies; first != second {
					t.Errorf("first %q was sent, then %q", first, second)
				}
			} else {
				k.fails(502, "upstream_reset")
				<-bodies
			}
			<-r.seen
			if seen := <-r.seen; c.again != (seen.Attempts == 2 && !seen.Reused) {
				t.Errorf("recorded %+v", seen)
			}
			if c.again != (r.meter.retried.Load() == 1) || r.meter.reused.Load() != 1 {
				t.Errorf("%d retried, %d reused", r.meter.retried.Load(), r.meter.reused.Load())
			}
			if len(bodies) > 0 {
				t.Errorf("sent once more: %s", <-bodies)
			}
		})
	}
}

// On a new connection there is no such excuse.
func TestDoesNotSendAgainOnANewConnection(t *testing.T) {
	s := newService(t, func(p *peer) { p.request() })
	r := newRig(t, settings(s.url()))
	k := r.dial()
	k.send(get)
	k.fails(502, "upstream_reset")
	if s.connections() != 1 {
		t.Error("it was sent again")
	}
}

// Half an answer means that the request was served, perhaps.
func TestDoesNotSendAgainAfterAByteOfTheAnswer(t *testing.T) {
	s := newService(t, func(p *peer) {
		p.request()
		p.send(ok + "Content-Length: 5\r\n\r\nhello")
		p.request()
		p.send("H")
	})
	r := newRig(t, settings(s.url()))
	k := r.dial()
	k.send(get)
	k.wants(200, "hello")
	k.send(get)
	k.fails(502, "upstream_reset")
	if s.connections() != 1 {
		t.Error("it was sent again")
	}
}

// A connection that was closed while it was idle is not used for any request.
func TestDeadIdleConnectionIsNotUsed(t *testing.T) {
	closed := make(chan struct{})
	s := newService(t, func(p *peer) {
		p.request()
		p.send(ok + "Content-Length: 5\r\n\r\nhello")
		if p.number == 1 {
			p.Close()
			close(closed)
		}
	})
	r := newRig(t, settings(s.url()))
	k := r.dial()
	k.send(get)
	k.wants(200, "hello")
	<-r.ended
	<-closed
	k.send("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 2\r\n\r\nhi")
	k.wants(200, "hello")
	<-r.seen
	if seen := <-r.seen; seen.Attempts != 1 || seen.Reused {
		t.Errorf("recorded %+v", seen)
	}
}

func TestLimitsOfConnections(t *testing.T) {
	for _, c := range []struct {
		name         string
		max, perSite int
		endpoints    int
		served       int // requests at once
	}{
		{"all", 2, 0, 2, 2},
		{"each endpoint", 0, 2, 2, 4},
		{"one endpoint", 0, 1, 1, 1},
		{"both", 3, 2, 2, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			arrived, finish := make(chan struct{}), make(chan struct{})
			var urls []string
			for range c.endpoints {
				urls = append(urls, newService(t, func(p *peer) {
					for p.request() != nil {
						arrived <- struct{}{}
						<-finish
						p.send(ok + "Content-Length: 5\r\n\r\nhello")
					}
				}).url())
			}
			cfg := settings(urls...)
			cfg.Connections.Max, cfg.Connections.MaxPerEndpoint = c.max, c.perSite
			r := newRig(t, cfg)
			var clients []*client
			for range c.served {
				k := r.dial()
				k.send(get)
				<-arrived
				clients = append(clients, k)
			}
			k := r.dial()
			k.send(get)
			if res := k.fails(503, "upstream_overloaded"); res.Header.Get("Retry-After") != "1" {
				t.Errorf("Retry-After is %q", res.Header.Get("Retry-After"))
			}
			close(finish)
			for _, k := range clients {
				k.wants(200, "hello")
			}
			for range c.served + 1 {
				<-r.ended
			}
			k.send(get)
			<-arrived
			k.wants(200, "hello")
		})
	}
}

// An idle connection to one endpoint is no reason to refuse a request that
// goes to another.
func TestIdleConnectionMakesRoom(t *testing.T) {
	a, b := newService(t, hello), newService(t, hello)
	cfg := settings(a.url(), b.url())
	cfg.Connections.Max = 1
	r := newRig(t, cfg)
	k := r.dial()
	for range 4 {
		k.send(get)
		k.wants(200, "hello")
		<-r.ended
	}
	if a.connections() != 2 || b.connections() != 2 {
		t.Errorf("%d and %d connections", a.connections(), b.connections())
	}
}

func TestIdleConnectionsAreBounded(t *testing.T) {
	gone := make(chan int, 10)
	arrived, finish := make(chan struct{}), make(chan struct{})
	s := newService(t, func(p *peer) {
		for p.request() != nil {
			arrived <- struct{}{}
			<-finish
			p.send(ok + "Content-Length: 5\r\n\r\nhello")
		}
		gone <- p.number
	})
	cfg := settings(s.url())
	cfg.Connections.Idle = 1
	r := newRig(t, cfg)
	var clients []*client
	for range 3 {
		k := r.dial()
		k.send(get)
		<-arrived
		clients = append(clients, k)
	}
	close(finish)
	for _, k := range clients {
		k.wants(200, "hello")
	}
	<-gone
	<-gone
	r.opens(1)
}

func TestWithoutIdleConnectionsTheUpstreamIsTold(t *testing.T) {
	told := make(chan bool, 1)
	s := newService(t, func(p *peer) {
		told <- p.request().Close
		p.send(ok + "Content-Length: 5\r\n\r\nhello")
	})
	cfg := settings(s.url())
	cfg.Connections.Idle = 0
	r := newRig(t, cfg)
	k := r.dial()
	k.send(get)
	k.wants(200, "hello")
	if !<-told {
		t.Error("no Connection: close")
	}
}

func TestOldIdleConnectionIsNotUsed(t *testing.T) {
	s := newService(t, hello)
	cfg := settings(s.url())
	cfg.Connections.IdleTimeout = config.Duration(time.Nanosecond)
	r := newRig(t, cfg)
	k := r.dial()
	for n := 1; n <= 2; n++ {
		k.send(get)
		k.wants(200, "hello")
		<-r.ended
		// The clock of idle connections moves in ticks.
		for now := r.sweeper.Now(); r.sweeper.Now() == now; {
			time.Sleep(time.Millisecond)
		}
	}
	if s.connections() != 2 {
		t.Errorf("%d connections", s.connections())
	}
}

// Connections that the service closed, or that are too old, do not stay open
// until somebody wants one.
func TestIdleConnectionsArePruned(t *testing.T) {
	t.Parallel()
	gone := make(chan int, 2)
	s := newService(t, func(p *peer) {
		hello(p)
		gone <- p.number
	})
	cfg := settings(s.url())
	cfg.Connections.IdleTimeout = config.Duration(time.Nanosecond)
	r := newRig(t, cfg)
	k := r.dial()
	k.send(get)
	k.wants(200, "hello")
	<-gone
	r.opens(0)
}

func TestNextEndpointWhenOneCannotBeReached(t *testing.T) {
	s := newService(t, hello)
	r := newRig(t, settings("http://"+deadAddress(t), s.url(), "http://"+deadAddress(t)))
	k := r.dial()
	for range 6 {
		k.send("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 2\r\n\r\nhi")
		k.wants(200, "hello")
		if seen := <-r.seen; seen.Endpoint != s.ln.Addr().String() || seen.Attempts < 1 || seen.Attempts > 3 {
			t.Errorf("recorded %+v", seen)
		}
	}
}

func TestNoEndpointCanBeReached(t *testing.T) {
	r := newRig(t, settings("http://"+deadAddress(t), "http://"+deadAddress(t)))
	k := r.dial()
	k.send(get)
	k.fails(502, "upstream_connect_failed")
	if seen := <-r.seen; seen.Attempts != 2 {
		t.Errorf("recorded %+v", seen)
	}
	if p := <-r.ended; p.Side != exchange.SideUpstream || p.Cause == nil {
		t.Errorf("problem %v", p)
	}
	if n := r.meter.failed.Load(); n != 2 {
		t.Errorf("%d failures counted", n)
	}
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	hosts := make(chan string, 2)
	serveOn(t, ln, func(p *peer) {
		for {
			r := p.request()
			if r == nil {
				return
			}
			hosts <- r.Host
			p.send(ok + "Content-Length: 5\r\n\r\nhello")
		}
	})
	cfg := settings("http://unix:" + path)
	cfg.Host = "endpoint"
	r := newRig(t, cfg)
	k := r.dial()
	k.send(get)
	k.wants(200, "hello")
	if seen := <-r.seen; seen.Endpoint != path {
		t.Errorf("recorded %+v", seen)
	}
	if h := <-hosts; h != "localhost" {
		t.Errorf("Host is %q", h)
	}
}

func TestIPv6(t *testing.T) {
	ln, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6 here:", err)
	}
	s := serveOn(t, ln, hello)
	r := newRig(t, settings(s.url()))
	k := r.dial()
	k.send(get)
	k.wants(200, "hello")
}

func TestHostField(t *testing.T) {
	hosts := make(chan string, 1)
	s := newService(t, func(p *peer) {
		for {
			r := p.request()
			if r == nil {
				return
			}
			hosts <- r.Host + " " + r.RequestURI
			p.send(ok + "Content-Length: 5\r\n\r\nhello")
		}
	})
	own := s.ln.Addr().String()
	for _, c := range []struct{ setting, request, want string }{
		{"preserve", get, "shop.example /path?q=1"},
		{"endpoint", get, own + " /path?q=1"},
		{"preserve", "GET / HTTP/1.0\r\n\r\n", own + " /"},
		{"preserve", "GET /? HTTP/1.1\r\nHost: a.example:81\r\n\r\n", "a.example:81 /?"},
		{"preserve", "OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n", "a.example *"},
	} {
		cfg := settings(s.url())
		cfg.Host = c.setting
		k := newRig(t, cfg).dial()
		k.send(c.request)
		k.wants(200, "hello")
		if got := <-hosts; got != c.want {
			t.Errorf("%s: upstream saw %q, want %q", c.setting, got, c.want)
		}
	}
}

// What already holds the upstream is served after it was retired, and leaves
// nothing behind.
func TestRetire(t *testing.T) {
	gone := make(chan int, 2)
	arrived, finish := make(chan struct{}, 3), make(chan struct{}, 3)
	s := newService(t, func(p *peer) {
		for p.request() != nil {
			arrived <- struct{}{}
			<-finish
			p.send(ok + "Content-Length: 5\r\n\r\nhello")
		}
		gone <- p.number
	})
	r := newRig(t, settings(s.url()))
	idle, busy := r.dial(), r.dial()
	idle.send(get)
	busy.send(get)
	<-arrived
	<-arrived
	finish <- struct{}{}
	<-r.ended
	r.u.Retire()
	<-gone // the idle one
	finish <- struct{}{}
	<-gone // the busy one
	idle.wants(200, "hello")
	busy.wants(200, "hello")
	finish <- struct{}{}
	idle.send(get)
	idle.wants(200, "hello")
	<-gone
	if s.connections() != 3 {
		t.Errorf("%d connections", s.connections())
	}
}

func TestEndpointURLs(t *testing.T) {
	for _, c := range []struct{ url, network, address, name, host string }{
		{"http://10.0.0.1:8080", "tcp", "10.0.0.1:8080", "", "10.0.0.1:8080"},
		{"http://10.0.0.1", "tcp", "10.0.0.1:80", "", "10.0.0.1"},
		{"HTTP://10.0.0.1/", "tcp", "10.0.0.1:80", "", "10.0.0.1"},
		{"http://[2001:db8::1]:8080", "tcp", "[2001:db8::1]:8080", "", "[2001:db8::1]:8080"},
		{"http://[::1]", "tcp", "[::1]:80", "", "[::1]"},
		{"https://10.0.0.1", "tcp", "10.0.0.1:443", "", "10.0.0.1"},
		{"http://products.internal:8080", "tcp", "", "products.internal", "products.internal:8080"},
		{"http://unix:/run/a.sock", "unix", "/run/a.sock", "", "localhost"},
		{"h2c://10.0.0.1", "tcp", "10.0.0.1:80", "", "10.0.0.1"},
		{"grpc://10.0.0.1", "tcp", "10.0.0.1:80", "", "10.0.0.1"},
		{"grpc://unix:/run/a.sock", "unix", "/run/a.sock", "", "localhost"},
		{"grpcs://10.0.0.1", "tcp", "10.0.0.1:443", "", "10.0.0.1"},
	} {
		s, err := parseSite(&config.Endpoint{URL: c.url})
		if err != nil {
			t.Error(err)
			continue
		}
		address := strings.Join(s.addresses, " ")
		if s.network != c.network || address != c.address || s.name != c.name || s.host != c.host {
			t.Errorf("%s: %+v", c.url, s)
		}
	}
	for _, url := range []string{
		"", "10.0.0.1:80", "h2://a.example", "grpcs://unix:/run/a.sock", "https://unix:/run/a.sock", "http://", "http://:80", "http://a.example:", "http://a.example:x",
		"http://a.example:0", "http://a.example:65536", "http://a.example/path", "http://a.example?q", "http://u@a.example",
		"http://::1", "http://::1:80", "http://[::1", "http://[a.example]", "http://[10.0.0.1]", "http://unix:run/a.sock", "http://a b",
		"http://a.example:+80", "http://fe80::1%eth0",
	} {
		if s, err := parseSite(&config.Endpoint{URL: url}); err == nil {
			t.Errorf("%q is taken for %+v", url, s)
		} else if !strings.Contains(err.Error(), url) {
			t.Errorf("%q: error does not quote it: %v", url, err)
		}
	}
}
