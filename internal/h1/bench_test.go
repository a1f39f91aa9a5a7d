package h1

import (
	"io"
	"net"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/wire"
)

const browserHead = "GET /api/products/42?fields=name,price HTTP/1.1\r\nHost: shop.example.com\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n" +
	"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n" +
	"Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n" +
	"Connection: keep-alive\r\nCookie: session=5f2b6c0e9d8a7b6c5d4e3f2a1b0c9d8e\r\n" +
	"Upgrade-Insecure-Requests: 1\r\nSec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\nPriority: u=0, i\r\n\r\n"

const serviceHead = "HTTP/1.1 200 OK\r\nDate: Mon, 23 Nov 2026 02:23:01 GMT\r\nContent-Type: application/json\r\n" +
	"Content-Length: 488\r\nCache-Control: no-cache\r\nETag: \"5f2b6c0e\"\r\nX-Request-Id: 5f2b6c0e9d8a7b6c\r\n\r\n"

func parseRequestOnce(tb testing.TB, head []byte, r *exchange.Request) {
	r.Reset()
	r.Scheme = "http"
	size, err := FindHead(head, 0)
	if err != nil {
		tb.Fatal(err)
	}
	if _, p := ParseRequest(head[:size], r, 100); p != nil {
		tb.Fatal(p)
	}
}

func parseResponseOnce(tb testing.TB, head []byte, r *exchange.Response) {
	r.Reset()
	size, err := FindHead(head, 0)
	if err != nil {
		tb.Fatal(err)
	}
	if _, _, err := ParseResponse(head[:size], r, "GET", 100); err != nil {
		tb.Fatal(err)
	}
}

func BenchmarkParseRequest(b *testing.B) {
	head, r := []byte(browserHead), new(exchange.Request)
	b.SetBytes(int64(len(head)))
	b.ReportAllocs()
	for b.Loop() {
		parseRequestOnce(b, head, r)
	}
}

func BenchmarkParseResponse(b *testing.B) {
	head, r := []byte(serviceHead), new(exchange.Response)
	b.SetBytes(int64(len(head)))
	b.ReportAllocs()
	for b.Loop() {
		parseResponseOnce(b, head, r)
	}
}

func BenchmarkAppendRequestHead(b *testing.B) {
	head, r := []byte(browserHead), new(exchange.Request)
	parseRequestOnce(b, head, r)
	p := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		p = AppendRequestHead(p[:0], r, false, false)
	}
}

func BenchmarkAppendResponseHead(b *testing.B) {
	head, r := []byte(serviceHead), new(exchange.Response)
	parseResponseOnce(b, head, r)
	p := make([]byte, 0, 4096)
	o := &ResponseHead{Status: 200, Framing: 488}
	b.ReportAllocs()
	for b.Loop() {
		p = AppendResponseHead(p[:0], o, &r.Header)
	}
}

func BenchmarkChunkedBody(b *testing.B) {
	body := AppendChunkHead(nil, 16000, true)
	body = append(body, make([]byte, 16000)...)
	body = AppendLastChunk(body, &exchange.Header{}, false)
	var t exchange.Header
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		d := ChunkedBody{}
		for p := body; ; {
			_, n, err := d.Decode(p, &t)
			if p = p[n:]; err == io.EOF {
				break
			}
		}
	}
}

// keepAlive returns a function that has one request answered on a connection
// that is kept.
func keepAlive(tb testing.TB) func() {
	body := make([]byte, 488)
	r := newRig(tb, tableLimits(), func(x *exchange.Exchange) {
		x.Response.Status = 200
		x.Response.Header.AddKnown(exchange.ContentType, "application/json")
		x.Response.SetBody(body)
		finish(x)
	})
	nc, err := net.Dial("tcp", r.address)
	if err != nil {
		tb.Fatal(err)
	}
	c := wire.New(nc, r.sweeper)
	tb.Cleanup(func() { c.Close() })
	c.SetTimeout(time.Minute)
	request, answer := []byte(browserHead), make([]byte, 4096)
	size, err := c.WriteRead(request, answer)
	if err != nil {
		tb.Fatal(err)
	}
	return func() {
		n, err := c.WriteRead(request, answer)
		for err == nil && n < size {
			var k int
			k, err = c.Read(answer[n:])
			n += k
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
}

func BenchmarkKeepAlive(b *testing.B) {
	once := keepAlive(b)
	b.ReportAllocs()
	for b.Loop() {
		once()
	}
}

func TestPlainPathAllocates(t *testing.T) {
	if raced {
		t.Skip("under the race detector")
	}
	head, request := []byte(browserHead), new(exchange.Request)
	answerHead, response := []byte(serviceHead), new(exchange.Response)
	p := make([]byte, 0, 4096)
	for _, c := range []struct {
		name string
		most float64
		f    func()
	}{
		{"parsing a request", 1, func() { parseRequestOnce(t, head, request) }},
		{"parsing an answer", 1, func() { parseResponseOnce(t, answerHead, response) }},
		{"writing a request", 0, func() { p = AppendRequestHead(p[:0], request, false, false) }},
		{"a request on a kept connection", 1, keepAlive(t)},
	} {
		if got := testing.AllocsPerRun(1000, c.f); got > c.most {
			t.Errorf("%s: %v allocations, want at most %v", c.name, got, c.most)
		}
	}
}
