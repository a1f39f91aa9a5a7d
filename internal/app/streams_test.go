package app

import (
	"bufio"
	"context"
	"crypto/sha1" // RFC 6455 wants it
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/h2"
	"gatehouse.dev/gatehouse/internal/wire"
)

// sockets starts a service that takes WebSockets over HTTP/1.1 and HTTP/2 on
// the same port, and repeats what it hears.
func sockets(t *testing.T) (address string) {
	t.Helper()
	sweeper := wire.NewSweeper()
	s2 := &h2.Server{Handler: func(x *exchange.Exchange) {
		x.Response.Status = 101
		x.Response.Header.Add("Sec-WebSocket-Accept", accept(x.Request.Header.Get("Sec-WebSocket-Key")))
		s, err := x.Down.Upgrade(x)
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.Copy(s, s)
		_ = s.CloseWrite()
	}}
	s2.Limits.Store(&h2.Limits{HeaderBytes: 32 << 10, Headers: 100, Streams: 100, HeaderTimeout: time.Minute, IdleTimeout: time.Minute})
	ln := listenTCP(t)
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer nc.Close()
				r := bufio.NewReader(nc)
				if b, err := r.Peek(3); err != nil || string(b) == "PRI" {
					s2.Serve(wire.New(replayed{nc, r}, sweeper), &exchange.Client{})
					return
				}
				req, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				fmt.Fprintf(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n", accept(req.Header.Get("Sec-WebSocket-Key")))
				_, _ = io.Copy(nc, r)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		s2.Cut()
		conns.Wait()
		sweeper.Close()
	})
	return ln.Addr().String()
}

// replayed is a connection of which something was looked at.
type replayed struct {
	net.Conn
	r *bufio.Reader
}

func (c replayed) Read(p []byte) (int, error) { return c.r.Read(p) }

// accept proves that a key was understood (RFC 6455, section 4.2.2).
func accept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

const socketKey = "dGhlIHNhbXBsZSBub25jZQ=="

// socket1 opens a WebSocket over HTTP/1.1.
func socket1(t *testing.T, address string) io.ReadWriteCloser {
	t.Helper()
	c := dial(t, address)
	fmt.Fprintf(c, "GET /chat HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n", socketKey)
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, nil)
	if err != nil || res.StatusCode != 101 || res.Header.Get("Sec-WebSocket-Accept") != accept(socketKey) {
		t.Fatalf("%+v, %v", res, err)
	}
	return struct {
		io.Reader
		io.WriteCloser
	}{r, c}
}

// pipes is a stream whose other end is a test.
type pipes struct {
	*io.PipeReader
	w *io.PipeWriter
}

func (p pipes) Write(b []byte) (int, error) { return p.w.Write(b) }
func (p pipes) CloseWrite() error           { return p.w.Close() }
func (p pipes) Close() error {
	_ = p.w.Close()
	return p.PipeReader.Close()
}

// nobody owns a connection that carries one exchange.
type nobody struct{}

func (nobody) Free(*h2.Client) {}
func (nobody) Gone(*h2.Client) {}
func (nobody) Panicked(v any)  { panic(v) }

// socket2 opens a WebSocket over HTTP/2.
func socket2(t *testing.T, address string) io.ReadWriteCloser {
	t.Helper()
	sweeper := wire.NewSweeper()
	wc, err := wire.Dial(t.Context(), "tcp", address, sweeper)
	if err != nil {
		t.Fatal(err)
	}
	k := h2.NewClient(wc, "http", &h2.ResponseLimits{HeaderBytes: 32 << 10, Headers: 100}, nobody{})
	if !k.Take() {
		t.Fatal("no place on a new connection")
	}
	x := exchange.Get()
	r := &x.Request
	r.Method, r.Scheme, r.Path, r.Upgrade = "GET", "http", "/chat", "websocket"
	r.Header.Add("Sec-WebSocket-Version", "13")
	r.Header.Add("Sec-WebSocket-Key", socketKey)
	x.Client = &exchange.Client{}
	if err := k.RoundTrip(x, "a.example"); err != nil {
		t.Fatal(err)
	}
	if x.Response.Status != 101 || x.Response.Header.Get("Sec-WebSocket-Accept") != accept(socketKey) {
		t.Fatalf("%d %v", x.Response.Status, x.Response.Header.Get("Sec-WebSocket-Accept"))
	}
	there, mine := io.Pipe()
	here, theirs := io.Pipe()
	var joined sync.WaitGroup
	joined.Go(func() { _ = x.Response.Body.(exchange.Tunnel).Join(x, pipes{there, theirs}) })
	t.Cleanup(func() {
		mine.Close()
		here.Close()
		joined.Wait()
		k.Cut()
		sweeper.Close()
	})
	return struct {
		io.Reader
		io.WriteCloser
	}{here, mine}
}

func TestWebSocketsOfAllProtocols(t *testing.T) {
	service := sockets(t)
	for scheme, name := range map[string]string{"http": "HTTP/1.1", "h2c": "HTTP/2"} {
		a, _ := running(t, fmt.Sprintf(`
listeners: [{ name: door, address: "127.0.0.1:0", protocols: [http1, h2c] }]
admin: off
upstreams: { service: { endpoints: ["%s://%s"] } }
routes: [{ match: "/*", upstream: service }]
`, scheme, service))
		t.Cleanup(func() { a.Close(context.Background()) })
		for from, open := range map[string]func(*testing.T, string) io.ReadWriteCloser{"HTTP/1.1": socket1, "HTTP/2": socket2} {
			t.Run(from+" to "+name, func(t *testing.T) {
				s := open(t, address(t, a, "door"))
				for i := range 10 {
					said := fmt.Sprintf("message %d", i)
					if _, err := io.WriteString(s, said); err != nil {
						t.Fatal(err)
					}
					heard := make([]byte, len(said))
					if _, err := io.ReadFull(s, heard); err != nil || string(heard) != said {
						t.Fatalf("%q came back, %v", heard, err)
					}
				}
			})
		}
	}
}

// An event is at the client before the service has the next one.
func TestEventsAreFlushedAtOnce(t *testing.T) {
	next := make(chan struct{})
	s := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 5 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			_ = http.NewResponseController(w).Flush()
			<-next
		}
	})}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	ln := listenTCP(t)
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(ln) })
	t.Cleanup(func() {
		s.Close()
		serving.Wait()
	})
	for _, scheme := range []string{"http", "h2c"} {
		a, _ := running(t, fmt.Sprintf(`
listeners: [{ name: door, address: "127.0.0.1:0", protocols: [http1, h2c] }]
admin: off
policies: [{ request_id: {} }, { access_log: {} }]
upstreams: { service: { endpoints: ["%s://%s"] } }
routes: [{ match: "/*", upstream: service }]
`, scheme, ln.Addr()))
		t.Cleanup(func() { a.Close(context.Background()) })
		for name, set := range map[string]func(*http.Protocols, bool){"HTTP/1.1": (*http.Protocols).SetHTTP1, "HTTP/2": (*http.Protocols).SetUnencryptedHTTP2} {
			t.Run(name+" to "+scheme, func(t *testing.T) {
				transport := &http.Transport{Protocols: new(http.Protocols)}
				set(transport.Protocols, true)
				defer transport.CloseIdleConnections()
				c := http.Client{Transport: transport, Timeout: 20 * time.Second}
				res, err := c.Get("http://" + address(t, a, "door") + "/events")
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				for i := range 5 {
					want := fmt.Sprintf("data: %d\n\n", i)
					got := make([]byte, len(want))
					if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != want {
						t.Fatalf("%q, %v", got, err)
					}
					next <- struct{}{}
				}
				if rest, err := io.ReadAll(res.Body); len(rest) > 0 || err != nil {
					t.Errorf("%q, %v", rest, err)
				}
			})
		}
	}
}
