package upstream

import (
	"log/slog"
	"net"
	"testing"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/wire"
)

const serviceAnswer = "HTTP/1.1 200 OK\r\nServer: service\r\nDate: Mon, 23 Nov 2026 03:00:00 GMT\r\n" +
	"Content-Type: application/json\r\nCache-Control: no-cache\r\nContent-Length: 20\r\n\r\n{\"products\": [1, 2]}"

// served returns a function that has an upstream on a loopback socket serve
// one request, from Serve to the answer's end.
func served(tb testing.TB) func() {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	sweeper := wire.NewSweeper()
	serveOn(tb, ln, func(p *peer) {
		c := wire.New(p.Conn, sweeper)
		b := make([]byte, 4096)
		answer := []byte(serviceAnswer)
		if _, err := c.Read(b); err != nil {
			return
		}
		for {
			if _, err := c.WriteRead(answer, b); err != nil {
				return
			}
		}
	})
	u, err := New("test", settings("http://"+ln.Addr().String()), Options{Sweeper: sweeper, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		u.Retire()
		sweeper.Close()
	})
	x := exchange.Get()
	x.Client = new(exchange.Client)
	return func() {
		x.Request.Reset()
		x.Response.Reset()
		r := &x.Request
		r.Method, r.Authority, r.Path = "GET", "shop.example", "/products"
		r.Header.AddKnown(exchange.UserAgent, "Mozilla/5.0 (X11; Linux x86_64)")
		r.Header.AddKnown(exchange.Accept, "application/json")
		r.Header.AddKnown(exchange.AcceptEncoding, "gzip, br")
		r.Header.AddKnown(exchange.XForwardedFor, "192.0.2.1")
		u.Serve(x)
		if x.Problem != nil || x.Response.Status != 200 {
			tb.Fatal(x.Problem)
		}
		for {
			if _, err := x.Response.Body.Next(); err != nil {
				break
			}
		}
		x.Response.Body.Close()
	}
}

func BenchmarkServe(b *testing.B) {
	once := served(b)
	b.ReportAllocs()
	for b.Loop() {
		once()
	}
}

// The one allocation is the head of the answer.
func TestServeAllocatesTheHeadOnly(t *testing.T) {
	if raced {
		t.Skip("under the race detector")
	}
	once := served(t)
	for range 100 {
		once()
	}
	if n := testing.AllocsPerRun(500, once); n > 1 {
		t.Errorf("%v allocations a request", n)
	}
}
