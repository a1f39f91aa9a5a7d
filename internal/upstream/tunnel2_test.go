package upstream

import (
	"crypto/sha1" // RFC 6455 wants it
	"encoding/base64"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/h2"
	"gatehouse.dev/gatehouse/internal/wire"
)

const (
	wsKey    = "dGhlIHNhbXBsZSBub25jZQ=="
	wsAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" // RFC 6455, section 1.3
	wsAsk    = "GET /chat HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + wsKey + "\r\n\r\n"
)

// newSockets starts a service that takes WebSockets over HTTP/2: serve is
// given the stream.
func newSockets(t testing.TB, serve func(s exchange.Stream)) (url string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	sweeper := wire.NewSweeper()
	s := &h2.Server{Handler: func(x *exchange.Exchange) {
		if x.Request.Upgrade != "websocket" {
			x.Response.Status = 200
			x.Response.SetBody([]byte("HTTP/2.0 "))
			if err := x.Down.WriteHead(x); err == nil {
				_, _ = x.Down.WriteFrom(x)
				_ = x.Down.Finish(x)
			}
			return
		}
		x.Response.Status = 101
		x.Response.Header.Add("Sec-WebSocket-Accept", accepted(x.Request.Header.Get("Sec-WebSocket-Key")))
		stream, err := x.Down.Upgrade(x)
		if err != nil {
			// The gateway ended it while the answer was on its way.
			stream = endedStream{err}
		}
		serve(stream)
	}}
	s.Limits.Store(&h2.Limits{HeaderBytes: 32 << 10, Headers: 100, Streams: 100, HeaderTimeout: time.Minute, IdleTimeout: time.Minute})
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { s.Serve(wire.New(nc, sweeper), &exchange.Client{}) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		s.Cut()
		conns.Wait()
		sweeper.Close()
	})
	return "h2c://" + ln.Addr().String()
}

// endedStream is the service's end of a tunnel that was over at once.
type endedStream struct{ err error }

func (s endedStream) Read([]byte) (int, error)  { return 0, s.err }
func (s endedStream) Write([]byte) (int, error) { return 0, s.err }
func (s endedStream) CloseWrite() error         { return nil }
func (s endedStream) Close() error              { return nil }

// accepted returns the proof for a key: the server of HTTP/2 makes one up for
// each request, so that it has to be computed.
func accepted(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// joins asks for a WebSocket and gets it.
func joins(t *testing.T, r *rig, more string) *client {
	t.Helper()
	k := r.dial()
	k.send(wsAsk + more)
	res := k.head("GET")
	if res.StatusCode != 101 || res.Header.Get("Upgrade") != "websocket" || res.Header.Get("Sec-WebSocket-Accept") != wsAccept {
		t.Fatalf("%d %v", res.StatusCode, res.Header)
	}
	return k
}

func TestWebSocketOverHTTP2(t *testing.T) {
	r := newRig(t, settings(newSockets(t, func(s exchange.Stream) {
		_, _ = io.WriteString(s, "welcome")
		_, _ = io.Copy(s, s)
		_, _ = io.WriteString(s, "bye")
		if err := s.CloseWrite(); err != nil {
			t.Error(err)
		}
	})))
	plain := r.dial()
	plain.send(get)
	plain.wants(200, "HTTP/2.0 ")
	<-r.ended
	k := joins(t, r, "early ")
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
	r.opens(1)
	plain.send(get) // over the same connection
	plain.wants(200, "HTTP/2.0 ")
	r.u.Retire()
	r.opens(0)
}

// A service of HTTP/2 that does not know of WebSockets is asked over HTTP/1.1,
// where it may speak that.
func TestWebSocketBesideHTTP2(t *testing.T) {
	upgrade := func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" || r.ProtoMajor != 1 {
			helloWeb(w, r)
			return
		}
		nc, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer nc.Close()
		_, _ = io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: "+wsAccept+"\r\n\r\n")
		_, _ = io.Copy(nc, rw)
	}
	for scheme, alpn := range map[string][]string{"h2c": nil, "https": {"h2", "http/1.1"}, "grpc": nil, "grpcs": {"h2", "http/1.1"}} {
		t.Run(scheme, func(t *testing.T) {
			s := newWeb(t, upgrade, nil, alpn...)
			s.url = scheme + s.url[strings.Index(s.url, "://"):]
			r := newRig(t, s.settings(nil))
			k := r.dial()
			k.send(get)
			k.wants(200, "HTTP/2.0 ")
			if strings.HasPrefix(scheme, "grpc") {
				k.send(wsAsk)
				k.fails(502, "upstream_no_websocket")
				k.send(strings.Replace(wsAsk, "websocket", "other", 1))
				k.fails(502, "upstream_no_websocket")
			} else {
				j := joins(t, r, "")
				j.send("hello")
				j.reads("hello")
				j.CloseWrite()
				if _, err := j.r.ReadByte(); err != io.EOF {
					t.Error(err)
				}
			}
			k.send(get)
			k.wants(200, "HTTP/2.0 ")
			r.u.Retire()
			r.opens(0)
		})
	}
}

// message returns a text message of so many bytes, masked with zeros.
func message(n int) string {
	head := []byte{0x81, 0x80 | 126, 0, 0, 0, 0, 0, 0}
	binary.BigEndian.PutUint16(head[2:], uint16(n))
	return string(head) + strings.Repeat("a", n)
}

func TestLimitsOfWebSocketsOverHTTP2(t *testing.T) {
	for name, c := range map[string]struct {
		limits exchange.TunnelLimits
		idle   time.Duration // of the upstream
		send   string
		want   string // what comes before the end
	}{
		"message":           {limits: exchange.TunnelLimits{MaxMessage: 100}, send: message(10) + message(200), want: "\x88\x02\x03\xf1"},
		"frame":             {limits: exchange.TunnelLimits{MaxFrame: 100}, send: message(10) + message(200), want: "\x88\x02\x03\xf1"},
		"idle":              {limits: exchange.TunnelLimits{Idle: 50 * time.Millisecond}},
		"idle, upstream's":  {idle: 50 * time.Millisecond},
		"lifetime":          {limits: exchange.TunnelLimits{Lifetime: 50 * time.Millisecond}},
		"idle after frames": {limits: exchange.TunnelLimits{Idle: 50 * time.Millisecond, MaxMessage: 100}, send: message(10)},
	} {
		t.Run(name, func(t *testing.T) {
			got := make(chan string, 1)
			cfg := settings(newSockets(t, func(s exchange.Stream) {
				b, _ := io.ReadAll(s)
				got <- string(b)
				_ = s.Close()
			}))
			if c.idle > 0 {
				cfg.Timeout.Idle = config.Duration(c.idle)
			}
			r := newRig(t, cfg)
			set := func(x *exchange.Exchange) { x.Tunnel = c.limits }
			r.policy.Store(&set)
			k := joins(t, r, c.send)
			rest, err := io.ReadAll(k.r)
			if string(rest) != c.want {
				t.Errorf("the client got %q, %v", rest, err)
			}
			// What the end overtakes the service does not get.
			if s := <-got; s != "" && s != message(10) {
				t.Errorf("the service got %d bytes", len(s))
			}
			if p := <-r.ended; p == nil {
				t.Error("the tunnel ended as if it were complete")
			}
			r.u.Retire()
			r.opens(0)
		})
	}
}

func TestWebSocketsOverHTTP2EndWithEitherSide(t *testing.T) {
	for name, end := range map[string]func(k *client, s exchange.Stream){
		"client resets":   func(k *client, _ exchange.Stream) { _ = k.SetLinger(0); k.Close() },
		"client closes":   func(k *client, _ exchange.Stream) { k.Close() },
		"upstream closes": func(_ *client, s exchange.Stream) { _ = s.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			streams, over := make(chan exchange.Stream), make(chan struct{})
			r := newRig(t, settings(newSockets(t, func(s exchange.Stream) {
				streams <- s
				_, _ = io.Copy(io.Discard, s)
				_ = s.Close()
				close(over)
			})))
			k := joins(t, r, "")
			end(k, <-streams)
			<-over
			<-r.ended
			r.u.Retire()
			r.opens(0)
		})
	}
}
