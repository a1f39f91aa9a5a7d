package h2

import (
	"bufio"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// rawClient is a client that costs next to nothing: it sends requests that it
// encoded before and only counts the ends of the answers.
type rawClient struct {
	nc    net.Conn
	r     *bufio.Reader
	block []byte // what every request consists of
	out   []byte
	next  uint32
	head  [frameHead]byte
}

func newRawClient(b testing.TB, address string) *rawClient {
	nc, err := net.Dial("tcp", address)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { nc.Close() })
	c := &rawClient{nc: nc, r: bufio.NewReaderSize(nc, 64<<10), next: 1}
	var fields fieldWriter
	enc := hpack.NewEncoder(&fields)
	list := [][2]string{
		{":method", "GET"},
		{":scheme", "http"},
		{":authority", "shop.example"},
		{":path", "/api/products?page=2"},
		{"user-agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)"},
		{"accept", "application/json,text/html;q=0.9,*/*;q=0.8"},
		{"accept-encoding", "gzip, deflate, br"},
		{"accept-language", "en-GB,en;q=0.9"},
		{"cookie", "session=0123456789abcdef; theme=dark"},
	}
	encode := func() {
		fields = nil
		for _, f := range list {
			if err := enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
				b.Fatal(err)
			}
		}
		c.block = fields
	}
	encode()
	first := append([]byte(preface), appendSettings(nil, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})...)
	first = appendWindowUpdate(first, 0, 1<<30)
	if _, err := nc.Write(append(first, appendSettingsAck(nil)...)); err != nil {
		b.Fatal(err)
	}
	c.send(1)
	c.await(1)
	encode() // now the server has it in its table, as with a browser
	return c
}

type fieldWriter []byte

func (w *fieldWriter) Write(p []byte) (int, error) { *w = append(*w, p...); return len(p), nil }

// send sends n requests in one write.
func (c *rawClient) send(n int) {
	b := c.out[:0]
	for range n {
		b = appendFrame(b, len(c.block), http2.FrameHeaders, http2.FlagHeadersEndHeaders|http2.FlagHeadersEndStream, c.next)
		b = append(b, c.block...)
		c.next += 2
	}
	c.out = b
	if _, err := c.nc.Write(b); err != nil {
		panic(err)
	}
}

// await waits for the ends of n answers.
func (c *rawClient) await(n int) {
	for n > 0 {
		if _, err := io.ReadFull(c.r, c.head[:]); err != nil {
			panic(err)
		}
		length := int(binary.BigEndian.Uint32(c.head[:]) >> 8)
		if _, err := c.r.Discard(length); err != nil {
			panic(err)
		}
		t, flags := http2.FrameType(c.head[3]), http2.Flags(c.head[4])
		if (t == http2.FrameData || t == http2.FrameHeaders) && flags.Has(http2.FlagDataEndStream) {
			n--
		}
		if t == http2.FrameRSTStream || t == http2.FrameGoAway {
			panic(t.String())
		}
	}
}

func answerFields(x *exchange.Exchange, body []byte) {
	x.Response.Status = 200
	x.Response.Header.Add("Content-Type", "application/json")
	x.Response.Header.Add("Cache-Control", "no-store")
	x.Response.Header.Add("X-Request-Id", "0123456789abcdef")
	x.Response.SetBody(body)
}

func BenchmarkServer(b *testing.B) {
	body := make([]byte, 488)
	for _, streams := range []int{1, 10} {
		r := newRig(b, tableLimits(), func(x *exchange.Exchange) {
			answerFields(x, body)
			finish(x)
		})
		b.Run(fmt.Sprint("ours/streams=", streams), func(b *testing.B) { benchServer(b, r.address, streams) })
		std := plainServer(b, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			h := w.Header()
			h.Set("Content-Type", "application/json")
			h.Set("Cache-Control", "no-store")
			h.Set("X-Request-Id", "0123456789abcdef")
			w.Write(body)
		}))
		b.Run(fmt.Sprint("std/streams=", streams), func(b *testing.B) { benchServer(b, std, streams) })
	}
}

func benchServer(b *testing.B, address string, streams int) {
	c := newRawClient(b, address)
	b.ReportAllocs()
	b.ResetTimer()
	before := processTime(b)
	for i := 0; i < b.N; i += streams {
		c.send(streams)
		c.await(streams)
	}
	// Of client and server together; on a busy machine it says more than the
	// time that went by.
	b.ReportMetric(float64(processTime(b)-before)/float64(b.N), "cpu-ns/op")
}

// processTime is the time that this process has been computing.
func processTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkRoundTrip(b *testing.B) {
	body := make([]byte, 488)
	r := newRig(b, tableLimits(), func(x *exchange.Exchange) {
		answerFields(x, body)
		finish(x)
	})
	c, _ := dialClient(b, r.address, responseLimits())
	b.ReportAllocs()
	b.SetParallelism(5)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			x := newExchange("GET", "/api/products")
			x.Request.Header.Add("Accept", "application/json")
			c.Take()
			if err := c.RoundTrip(x, "up.example"); err != nil {
				b.Fatal(err)
			}
			if _, err := readAnswer(x); err != nil {
				b.Fatal(err)
			}
			x.Response.Body.Close()
			exchange.Put(x)
		}
	})
}

func BenchmarkDownload(b *testing.B) {
	noise := make([]byte, 1<<20)
	rand.Read(noise)
	r := newRig(b, tableLimits(), func(x *exchange.Exchange) {
		x.Response.Status = 200
		x.Response.SetBody(noise)
		finish(x)
	})
	c, _ := dialClient(b, r.address, responseLimits())
	b.SetBytes(1 << 20)
	for b.Loop() {
		x := newExchange("GET", "/")
		c.Take()
		if err := c.RoundTrip(x, "up.example"); err != nil {
			b.Fatal(err)
		}
		for {
			if _, err := x.Response.Body.Next(); err != nil {
				break
			}
		}
		x.Response.Body.Close()
		exchange.Put(x)
	}
}

// TestAllocations holds the plain path to what it needs: the frame that the
// Framer returns, the goroutine's closure, and a little for the runtime.
func TestAllocations(t *testing.T) {
	if raced {
		t.Skip("pools drop at random")
	}
	body := make([]byte, 488)
	r := newRig(t, tableLimits(), func(x *exchange.Exchange) {
		answerFields(x, body)
		finish(x)
	})
	c := newRawClient(t, r.address)
	for range 100 {
		c.send(1)
		c.await(1)
	}
	if got := testing.AllocsPerRun(1000, func() { c.send(1); c.await(1) }); got > 3 {
		t.Errorf("%v allocations a request, want at most 3", got)
	}
}
