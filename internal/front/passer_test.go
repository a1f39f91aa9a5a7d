package front

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/proxyproto"
)

// passes makes a rig whose connections are passed to pass.
func passes(t *testing.T, protocol string, pass func(*exchange.Exchange, exchange.Stream)) *rig {
	cfg := listenerOf("native")
	cfg.Protocol = protocol
	return newRigOf(t, cfg, Options{Pass: pass})
}

// echoes takes a connection over and sends back what comes.
func echoes(x *exchange.Exchange, client exchange.Stream) {
	x.Response.HeadSent = true
	c, first := client.(*passed).Raw()
	_, _ = c.Write(first)
	b := make([]byte, 4096)
	for {
		n, err := c.Read(b)
		if err != nil {
			break
		}
		_, _ = c.Write(b[:n])
	}
	_ = client.Close()
}

func TestPassedTCP(t *testing.T) {
	r := passes(t, "tcp", func(x *exchange.Exchange, client exchange.Stream) {
		local, _, _ := net.SplitHostPort(x.Client.Local.String())
		if x.Request.Proto != exchange.TCP || x.Request.Host != "" || x.Client.IP != "127.0.0.1" || local != "127.0.0.1" || x.Tunnel.Idle == 0 {
			t.Errorf("%+v %+v %v", x.Client, x.Request, x.Tunnel)
		}
		echoes(x, client)
	})
	k := r.dial(t)
	k.send("hello") // the service may speak first, and so nothing is waited for
	b := make([]byte, 5)
	if _, err := io.ReadFull(k.r, b); err != nil || string(b) != "hello" {
		t.Errorf("%q %v", b, err)
	}
}

func TestPassedTLS(t *testing.T) {
	names := make(chan string, 1)
	r := passes(t, "tls", func(x *exchange.Exchange, client exchange.Stream) {
		names <- x.Request.Host
		echoes(x, client)
	})
	whole := inRecords(hello(sni("db.example.com")), 9)
	for _, step := range []int{len(whole), 1, 13} {
		k := r.dial(t)
		for rest := whole; len(rest) > 0; {
			n := min(step, len(rest))
			k.send(string(rest[:n]))
			rest = rest[n:]
		}
		if name := <-names; name != "db.example.com" {
			t.Errorf("name %q", name)
		}
		back := make([]byte, len(whole))
		if _, err := io.ReadFull(k.r, back); err != nil || string(back) != string(whole) {
			t.Errorf("in steps of %d: %q, %v", step, back, err)
		}
	}
}

func TestRefusedTLS(t *testing.T) {
	for _, c := range []struct {
		name, in, code, alert string
	}{
		{"http", "GET / HTTP/1.1\r\n\r\n", "tls_malformed", "\x15\x03\x03\x00\x02\x02\x32"},
		{"no route", string(inRecords(hello(sni("a.example")), 1000)), "no_route", "\x15\x03\x03\x00\x02\x02\x70"},
		{"no service", string(inRecords(hello(sni("b.example")), 1000)), "down", "\x15\x03\x03\x00\x02\x02\x50"},
		{"too long", string(inRecords(hello("\xfa\xfa\x3f\xff"+string(make([]byte, 0x3fff))), 100)), "tls_malformed", "\x15\x03\x03\x00\x02\x02\x32"},
	} {
		codes := make(chan string, 1)
		r := passes(t, "tls", func(x *exchange.Exchange, _ exchange.Stream) {
			switch x.Request.Host {
			case "a.example":
				x.Fail(&exchange.Problem{Code: "no_route"})
			case "b.example":
				x.Fail(&exchange.Problem{Code: "down", Side: exchange.SideUpstream})
			}
			if x.Problem != nil {
				codes <- x.Problem.Code
			}
		})
		k := r.dial(t)
		k.send(c.in)
		if code := <-codes; code != c.code {
			t.Errorf("%s: code %q", c.name, code)
		}
		b := make([]byte, len(c.alert))
		if _, err := io.ReadFull(k.r, b); (err != nil || string(b) != c.alert) && c.name != "too long" { // a reset may overtake it
			t.Errorf("%s: %q, %v", c.name, b, err)
		}
	}
}

func TestLateHello(t *testing.T) {
	codes := make(chan string, 1)
	r := passes(t, "tls", func(x *exchange.Exchange, _ exchange.Stream) { codes <- x.Problem.Code })
	r.apply(with(r.cfg, func(l *config.Listener) { l.Limits.HeaderTimeout = config.Duration(100 * time.Millisecond) }))
	k := r.dial(t)
	k.send("\x16\x03\x01")
	if code := <-codes; code != "tls_timeout" {
		t.Error(code)
	}
	k.expectEnd()
}

// Draining leaves connections alone; cutting cancels them.
func TestPassedCut(t *testing.T) {
	begun, over := make(chan struct{}), make(chan error, 1)
	r := passes(t, "tcp", func(x *exchange.Exchange, client exchange.Stream) {
		w := make(waker)
		if err := x.Bind(w); err != nil {
			t.Error(err)
		}
		close(begun)
		<-w
		over <- x.Bind(nil)
	})
	r.dial(t)
	<-begun
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if n := r.f.Drain(ctx); n != 1 {
		t.Errorf("%d were cut", n)
	}
	if err := <-over; !errors.Is(err, errCut) {
		t.Error(err)
	}
}

type waker chan struct{}

func (w waker) Interrupt() { close(w) }

func TestProxyHeader(t *testing.T) {
	for _, door := range append(doors, "tcp") {
		t.Run(door, func(t *testing.T) {
			cfg := listenerOf(door)
			if door == "tcp" {
				cfg.Engine, cfg.Protocol = "native", "tcp"
			}
			cfg.ProxyProtocol = true
			cfg.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("192.0.2.0/24")}
			seen := make(chan exchange.Client, 1)
			r := newRigOf(t, cfg, Options{
				Handler: func(x *exchange.Exchange) {
					seen <- *x.Client
					reply(x, "")
				},
				Pass: func(x *exchange.Exchange, client exchange.Stream) {
					c, _ := client.(*passed).Raw()
					b := make([]byte, len(simple))
					if _, err := io.ReadFull(c, b); err != nil || string(b) != simple {
						t.Errorf("%q, %v", b, err)
					}
					seen <- *x.Client
				},
			})
			a := netip.MustParseAddrPort
			for _, c := range []struct {
				header, ip, port string
				trusted          bool
			}{
				{"PROXY TCP4 198.51.100.7 203.0.113.1 4000 443\r\n", "198.51.100.7", "443", false},
				{"PROXY TCP6 2001:db8::7 2001:db8::1 4000 443\r\n", "2001:db8::7", "443", false},
				{"PROXY TCP4 192.0.2.7 203.0.113.1 4000 443\r\n", "192.0.2.7", "443", true},
				{string(proxyproto.Append(nil, 2, a("198.51.100.7:4000"), a("203.0.113.1:443"))), "198.51.100.7", "443", false},
				{"PROXY UNKNOWN\r\n", "127.0.0.1", "", true},
				{"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00", "127.0.0.1", "", true},
			} {
				k := r.dial(t)
				k.bare(c.header) // TLS begins after it
				k.send(simple)
				got := <-seen
				if c.port == "" {
					_, c.port, _ = net.SplitHostPort(r.address)
				}
				if got.IP != c.ip || got.Port != c.port || got.Trusted != c.trusted || got.Local.Port() == 0 || got.Peer != got.Addr {
					t.Errorf("%q: %+v", c.header, got)
				}
			}
			for _, in := range []string{simple, "PROXY TCP4 1 2 3 4\r\n" + simple, "PROXY "} {
				k := r.dial(t)
				k.bare(in)
				if in == "PROXY " {
					if err := k.tcp().CloseWrite(); err != nil {
						t.Error(err)
					}
				}
				if b, _ := io.ReadAll(k.tcp()); len(b) > 0 {
					t.Errorf("%q got %q", in, b)
				}
			}
			r.apply(with(cfg, func(l *config.Listener) { l.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} }))
			k := r.dial(t)
			k.bare("PROXY TCP4 198.51.100.7 203.0.113.1 4000 443\r\n" + simple)
			if b, _ := io.ReadAll(k.tcp()); len(b) > 0 {
				t.Errorf("somebody who is not trusted got %q", b)
			}
		})
	}
}

// A connection that owes its header is closed in time, and by a drain.
func TestOwedProxyHeader(t *testing.T) {
	cfg := listenerOf("native")
	cfg.ProxyProtocol, cfg.TrustedProxies = true, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	cfg.Limits.HeaderTimeout = config.Duration(100 * time.Millisecond)
	r := newRig(t, cfg, nil)
	r.dial(t).expectEnd()
	r.apply(with(cfg, func(l *config.Listener) { l.Limits.HeaderTimeout = config.Duration(time.Hour) }))
	k := r.dial(t)
	k.send("PROXY TCP4")
	for r.f.Listeners()[0].Connections == 0 {
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if n := r.f.Drain(ctx); n != 1 {
		t.Errorf("%d were cut", n)
	}
}
