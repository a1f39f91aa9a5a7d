package upstream

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/proxyproto"
	"gatehouse.dev/gatehouse/internal/wire"
)

// rawStream is a client's connection that is passed on.
type rawStream struct {
	*wire.Conn
	first []byte
}

func (s *rawStream) Raw() (*wire.Conn, []byte) { return s.Conn, s.first }

// pass connects a client with an upstream. What it returns is the client's end,
// and the exchange once it is over.
func pass(t *testing.T, cfg *config.Upstream, change func(x *exchange.Exchange)) (*net.TCPConn, <-chan *exchange.Exchange) {
	t.Helper()
	sweeper := wire.NewSweeper()
	t.Cleanup(sweeper.Close)
	u, err := New("db", cfg, Options{Sweeper: sweeper})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.Retire)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	near, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if err := near.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	x := exchange.Get()
	x.Client = &exchange.Client{Addr: netip.MustParseAddrPort("198.51.100.7:4000"), Local: netip.MustParseAddrPort("203.0.113.1:5432")}
	if change != nil {
		change(x)
	}
	over := make(chan *exchange.Exchange, 1)
	go func() {
		s := &rawStream{wire.New(far, sweeper), []byte("first ")}
		if tunnel := u.Connect(x); tunnel == nil {
			_ = s.Close()
		} else if err := tunnel.Join(x, s); err != nil {
			var own *exchange.Problem
			if !errors.As(err, &own) {
				own = &exchange.Problem{Code: "broke", Cause: err}
			}
			x.Problem = own
		}
		over <- x
	}()
	return near.(*net.TCPConn), over
}

func tcpSettings(url string) *config.Upstream {
	cfg := settings(url)
	cfg.Endpoints[0].URL = strings.Replace(url, "http://", "tcp://", 1)
	return cfg
}

// Each way ends by itself, and the bytes of both are counted.
func TestPassage(t *testing.T) {
	s := newService(t, func(p *peer) {
		p.send("welcome ")
		io.Copy(p, p.r)
		p.send("bye")
	})
	near, over := pass(t, tcpSettings(s.url()), nil)
	r := bufio.NewReader(near)
	long := string(noise(1 << 20))
	go func() {
		_, _ = io.WriteString(near, long)
		_ = near.CloseWrite()
	}()
	all, err := io.ReadAll(r)
	if err != nil || string(all) != "welcome first "+long+"bye" {
		t.Errorf("%d bytes, %v", len(all), err)
	}
	x := <-over
	if x.Problem != nil || x.Upstream.Name != "db" || x.Upstream.Attempts != 1 || !strings.HasSuffix(s.url(), x.Upstream.Endpoint) {
		t.Errorf("%+v, %v", x.Upstream, x.Problem)
	}
	if want := int64(len("first ") + len(long)); x.Request.Received != want || x.Response.Sent != want+int64(len("welcome bye")) {
		t.Errorf("%d in, %d out", x.Request.Received, x.Response.Sent)
	}
}

func TestPassageFailsOver(t *testing.T) {
	s := newService(t, func(p *peer) { p.send("here") })
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()
	cfg := tcpSettings("http://" + dead.Addr().String())
	cfg.Endpoints = append(cfg.Endpoints, tcpSettings(s.url()).Endpoints...)
	for range 4 {
		near, over := pass(t, cfg, nil)
		if b, err := io.ReadAll(near); string(b) != "here" {
			t.Errorf("%q, %v", b, err)
		}
		near.Close()
		<-over
	}
	near, over := pass(t, tcpSettings("http://"+dead.Addr().String()), nil)
	if b, _ := io.ReadAll(near); len(b) > 0 {
		t.Errorf("%q", b)
	}
	if x := <-over; x.Problem == nil || x.Problem.Code != "upstream_connect_failed" {
		t.Error(x.Problem)
	}
}

func TestPassageLimits(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*exchange.Exchange)
		talks  bool
	}{
		"idle":     {func(x *exchange.Exchange) { x.Tunnel.Idle = 200 * time.Millisecond }, false},
		"lifetime": {func(x *exchange.Exchange) { x.Tunnel.Lifetime = 500 * time.Millisecond }, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newService(t, func(p *peer) { io.Copy(p, p.r) })
			near, over := pass(t, tcpSettings(s.url()), c.change)
			if c.talks {
				go func() {
					for {
						if _, err := near.Write([]byte("x")); err != nil {
							return
						}
					}
				}()
			}
			_, _ = io.Copy(io.Discard, near)
			if x := <-over; x.Problem == nil || x.Problem.Code != "idle_timeout" {
				t.Error(x.Problem)
			}
		})
	}
}

// Who cancels the exchange ends the passage, and the service sees a reset.
func TestPassageIsCancelled(t *testing.T) {
	ended := make(chan error, 1)
	s := newService(t, func(p *peer) {
		p.send("x")
		_, err := io.Copy(io.Discard, p.r)
		ended <- err
	})
	var running *exchange.Exchange
	near, over := pass(t, tcpSettings(s.url()), func(x *exchange.Exchange) { running = x })
	if _, err := near.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	running.Cancel(errors.New("enough"))
	if err := <-ended; err == nil {
		t.Error("the service took what it got for complete")
	}
	if x := <-over; x.Problem == nil || !strings.Contains(x.Problem.Error(), "enough") {
		t.Error(x.Problem)
	}
}

func TestPassageWithProxyHeader(t *testing.T) {
	for _, version := range []string{"v1", "v2"} {
		got := make(chan proxyproto.Header, 1)
		s := newService(t, func(p *peer) {
			for n := 1; ; n++ {
				b, err := p.r.Peek(n)
				h, size, _, bad := proxyproto.Parse(b)
				if err != nil || bad != nil {
					t.Error(err, bad)
					return
				}
				if size > 0 {
					_, _ = p.r.Discard(size)
					got <- h
					break
				}
			}
			io.Copy(p, p.r)
		})
		cfg := tcpSettings(s.url())
		cfg.ProxyProtocol = version
		near, over := pass(t, cfg, nil)
		near.CloseWrite()
		if b, err := io.ReadAll(near); string(b) != "first " {
			t.Errorf("%q, %v", b, err)
		}
		if h := <-got; h.Source.String() != "198.51.100.7:4000" || h.Destination.String() != "203.0.113.1:5432" || "v"+string(rune('0'+h.Version)) != version {
			t.Errorf("%s: %+v", version, h)
		}
		<-over
	}
}

// With a header a connection belongs to one client: none is used again.
func TestProxyHeaderBeforeHTTP(t *testing.T) {
	s := newService(t, func(p *peer) {
		line, err := p.r.ReadString('\n')
		if err != nil || line != "PROXY UNKNOWN\r\n" { // clients of the rig have no address
			t.Errorf("%q, %v", line, err)
		}
		q := p.request()
		if q == nil || q.Header.Get("Connection") != "close" {
			t.Error("the connection was to be kept")
		}
		p.send(ok + "Content-Length: 2\r\n\r\nhi")
	})
	cfg := settings(s.url())
	cfg.ProxyProtocol = "v1"
	r := newRig(t, cfg)
	k := r.dial()
	for range 3 {
		k.send(get)
		k.wants(200, "hi")
	}
	if n := s.connections(); n != 3 {
		t.Errorf("%d connections", n)
	}
}
