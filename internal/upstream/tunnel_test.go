package upstream

import (
	"io"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
)

const (
	upgrade  = "GET /chat HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n"
	switches = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
)

// join asks for an upgrade and gets it.
func join(t *testing.T, r *rig, more string) *client {
	t.Helper()
	k := r.dial()
	k.send(upgrade + more)
	if res := k.head("GET"); res.StatusCode != 101 || res.Header.Get("Upgrade") != "websocket" {
		t.Fatalf("%d %v", res.StatusCode, res.Header)
	}
	return k
}

func (c *client) reads(want string) {
	c.t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c.r, got); err != nil || string(got) != want {
		c.t.Fatalf("want %q, have %q, %v", want, got, err)
	}
}

func TestTunnel(t *testing.T) {
	s := newService(t, func(p *peer) {
		if q := p.request(); q.Header.Get("Upgrade") != "websocket" || q.Header.Get("Connection") != "Upgrade" || q.Header.Get("Sec-WebSocket-Key") != "x" {
			t.Errorf("upstream saw %v", q.Header)
		}
		p.send(switches + "welcome")
		io.Copy(p, p.r)
		p.send("bye")
	})
	r := newRig(t, settings(s.url()))
	k := join(t, r, "early ")
	k.reads("welcomeearly ")
	for range 20 {
		k.send("ping")
		k.reads("ping")
	}
	long := string(noise(1 << 20))
	go k.send(long)
	k.reads(long)
	k.CloseWrite() // each way ends by itself
	k.reads("bye")
	if _, err := k.r.ReadByte(); err != io.EOF {
		t.Error(err)
	}
	if p := <-r.ended; p != nil {
		t.Error(p)
	}
	r.opens(0)
}

// An upgrade that is declined is an ordinary answer. What the client sent
// early is not for this upstream.
func TestDeclinedUpgrade(t *testing.T) {
	for _, status := range []string{"200 OK", "403 Forbidden", "426 Upgrade Required"} {
		s := newService(t, func(p *peer) {
			p.request()
			p.send("HTTP/1.1 " + status + "\r\nContent-Length: 2\r\n\r\nno")
			p.request()
			p.send(ok + "Content-Length: 5\r\n\r\nagain")
		})
		r := newRig(t, settings(s.url()))
		k := r.dial()
		k.send(upgrade)
		if res, body, err := k.answer("GET"); err != nil || body != "no" || !strings.HasPrefix(status, res.Status[:3]) {
			t.Errorf("%s %q %v", res.Status, body, err)
		}
		<-r.ended
		k.send(get)
		k.wants(200, "again")
		if s.connections() != 1 {
			t.Errorf("%d connections", s.connections())
		}
	}
}

func TestUpgradeToSomethingElse(t *testing.T) {
	for _, fields := range []string{"Upgrade: h2c\r\n", "Upgrade: websocket, h2c\r\n", "Upgrade:\r\n", ""} {
		s := newService(t, func(p *peer) {
			p.request()
			p.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n" + fields + "\r\n")
			p.request()
		})
		r := newRig(t, settings(s.url()))
		k := r.dial()
		k.send(upgrade)
		k.fails(502, "upstream_malformed")
		r.opens(0)
	}
}

func TestTunnelEndsWithEitherSide(t *testing.T) {
	for name, end := range map[string]func(k *client, p *peer){
		"client resets":   func(k *client, _ *peer) { k.SetLinger(0); k.Close() },
		"client closes":   func(k *client, _ *peer) { k.Close() },
		"upstream closes": func(_ *client, p *peer) { p.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			peers, done := make(chan *peer, 1), make(chan struct{})
			s := newService(t, func(p *peer) {
				p.request()
				p.send(switches)
				peers <- p
				io.Copy(io.Discard, p.r)
				p.Close()
				close(done)
			})
			r := newRig(t, settings(s.url()))
			k := join(t, r, "")
			end(k, <-peers)
			<-done
			if name == "upstream closes" {
				if _, err := k.r.ReadByte(); err != io.EOF {
					t.Error(err)
				}
				k.Close()
			}
			<-r.ended
			r.opens(0)
		})
	}
}

// A server that is cut has tunnels whose upstream never says anything.
func TestTunnelEndsWithTheServer(t *testing.T) {
	done := make(chan struct{})
	s := newService(t, func(p *peer) {
		p.request()
		p.send(switches)
		io.Copy(io.Discard, p.r)
		<-done
	})
	r := newRig(t, settings(s.url()))
	join(t, r, "")
	r.s.Cut()
	<-r.ended
	close(done)
}

func TestTunnelIdleTimeout(t *testing.T) {
	t.Parallel()
	s := newService(t, func(p *peer) {
		p.request()
		p.send(switches)
		for range 6 { // one way only is enough to stay open
			time.Sleep(100 * time.Millisecond)
			p.send("x")
		}
		io.Copy(io.Discard, p.r)
	})
	cfg := settings(s.url())
	cfg.Timeout.Idle = config.Duration(400 * time.Millisecond)
	cfg.Timeout.Request = config.Duration(time.Millisecond) // tunnels are exempt
	cfg.Timeout.FirstByte = config.Duration(time.Second)
	r := newRig(t, cfg)
	k := join(t, r, "")
	k.reads("xxxxxx")
	if _, err := io.ReadAll(k.r); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Error(err)
	}
	if p := <-r.ended; p == nil {
		t.Error("the tunnel did not time out")
	}
}
