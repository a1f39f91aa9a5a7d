package h2

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/h1"
	"gatehouse.dev/gatehouse/internal/wire"
)

// drive gives bytes to one end of a connection, and reads what comes until
// that end has closed it.
func drive(t *testing.T, nc net.Conn, in []byte) (out int64) {
	var reading sync.WaitGroup
	reading.Go(func() { out, _ = io.Copy(io.Discard, nc) })
	nc.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = nc.Write(in) // it may have had enough before
	if c, ok := nc.(*net.TCPConn); ok {
		c.CloseWrite()
	}
	reading.Wait()
	nc.Close()
	return out
}

// frames begins a corpus of connections.
func frames(f *testing.F, server bool) {
	add := func(parts ...[]byte) { f.Add(bytes.Join(parts, nil)) }
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	head := func(id uint32, flags http2.Flags, pairs ...string) []byte {
		block.Reset()
		for i := 0; i < len(pairs); i += 2 {
			enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
		}
		return append(appendFrame(nil, block.Len(), http2.FrameHeaders, flags, id), block.Bytes()...)
	}
	first := simple
	if !server {
		first = []string{":status", "200", "content-type", "text/plain"}
	}
	settings := appendSettings(nil, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 100})
	data := append(appendFrame(nil, 5, http2.FrameData, http2.FlagDataEndStream, 1), "hello"...)
	add(settings, appendSettingsAck(nil), head(1, 5, first...))
	add(settings, head(1, 4, first...), data)
	add(settings, head(1, 4, first...), data[:9], []byte("he"))
	add(settings, head(1, 4, append(first, "content-length", "5")...), data)
	add(settings, head(1, 4, first...), head(1, 5, "x-trailer", "1"))
	add(settings, head(1, 5, first...), head(3, 5, first...), appendReset(nil, 3, http2.ErrCodeCancel))
	add(settings, head(1, 0, first...), appendFrame(nil, 0, http2.FrameContinuation, 4, 1))
	add(settings, appendPing(nil, 0, [8]byte{}), appendWindowUpdate(nil, 0, 100), appendGoAway(nil, 1, 0, "bye"))
	add(settings, head(1, 4, first...), appendWindowUpdate(nil, 1, 1<<31-1))
	add([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
}

// FuzzServer gives any bytes to a server: nothing panics, every exchange ends,
// and what comes out is bounded by what went in.
func FuzzServer(f *testing.F) {
	frames(f, true)
	sweeper := wire.NewSweeper()
	f.Cleanup(sweeper.Close)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { ln.Close() })
	f.Fuzz(func(t *testing.T, in []byte) {
		s := &Server{Handler: func(x *exchange.Exchange) {
			if x.Request.Path == "" || x.Request.Host == "" || x.Request.Method == "" {
				t.Error("request without a path, host or method")
			}
			x.Response.Status, x.Response.Length = 200, x.Request.Length
			x.Response.Body = x.Request.Body
			finish(x)
		}}
		s.held.Store(mostHeld) // offenders are cut at once, and nobody waits for it
		s.Limits.Store(&Limits{HeaderBytes: 4096, Headers: 30, Body: 1 << 16, Streams: 10, HeaderTimeout: 5 * time.Second, IdleTimeout: 5 * time.Second})
		here, there := dialPair(t, ln)
		served := make(chan bool)
		go func() { s.Serve(wire.New(there, sweeper), &exchange.Client{}); close(served) }()
		out := drive(t, here, append([]byte(preface), in...))
		<-served
		if most := int64(20*len(in) + 4096); out > most {
			t.Errorf("%d bytes in, %d bytes out", len(in), out)
		}
	})
}

// FuzzClient gives any bytes to a client that waits for an answer.
func FuzzClient(f *testing.F) {
	frames(f, false)
	sweeper := wire.NewSweeper()
	f.Cleanup(sweeper.Close)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { ln.Close() })
	f.Fuzz(func(t *testing.T, in []byte) {
		here, there := dialPair(t, ln)
		o := newOwner()
		l := &ResponseLimits{HeaderBytes: 4096, Headers: 30, FirstByte: 5 * time.Second, Request: 5 * time.Second, Idle: 5 * time.Second}
		c := NewClient(wire.New(there, sweeper), "http", l, o)
		done := make(chan bool)
		go func() {
			defer close(done)
			x := newExchange("POST", "/")
			x.Request.Body, x.Request.Length = exchange.Bytes([]byte("hello")), 5
			if !c.Take() {
				return
			}
			if err := c.RoundTrip(x, "a.example"); err != nil {
				return
			}
			if s := x.Response.Status; s < 200 || s > 599 {
				t.Error(s)
			}
			readAnswer(x)
			x.Response.Body.Close()
			exchange.Put(x)
		}()
		drive(t, here, in)
		<-done
		<-o.gone
	})
}

func dialPair(t testing.TB, ln net.Listener) (here, there net.Conn) {
	here, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if there, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	return here, there
}

// FuzzFields is the law of downgrades: a request that is accepted reads the
// same when it is written as HTTP/1.1. The fields are lines of name, tab and
// value.
func FuzzFields(f *testing.F) {
	line := func(pairs ...string) string {
		s := ""
		for i := 0; i < len(pairs); i += 2 {
			s += pairs[i] + "\t" + pairs[i+1] + "\n"
		}
		return s
	}
	f.Add(line(simple...))
	f.Add(line(with("cookie", "a", "cookie", "b", "te", "trailers", "content-length", "0")...))
	f.Add(line(with("x-a", "b\rc", "host", "a.example")...))
	f.Add(line(with(":method", "OPTIONS", ":path", "*", "x", "")...))
	f.Add(line(with(":authority", "[::1]:80", ":path", "/a?b?c", "expect", "100-continue")...))
	f.Fuzz(func(t *testing.T, text string) {
		var r exchange.Request
		r.Reset()
		r.Scheme = "http"
		var b fieldBlock
		b.begin(requestHead, &r.Header, 8192, 50)
		for l := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
			name, value, _ := strings.Cut(l, "\t")
			b.field(hpack.HeaderField{Name: name, Value: value})
		}
		if err := b.request(&r, true); err != nil || b.large || r.Method == "CONNECT" || exchange.EqualFold(r.Method, "TRACE") || r.Upgrade != "" {
			return
		}
		head := h1.AppendRequestHead(nil, &r, false, false)
		size, err := h1.FindHead(head, 0)
		if err != nil || size != len(head) {
			t.Fatalf("%d %v of %q", size, err, head)
		}
		var again exchange.Request
		again.Reset()
		again.Scheme = "http"
		if framing, p := h1.ParseRequest(head, &again, 100); p != nil || framing != 0 {
			t.Fatalf("%v %v of %q", framing, p, head)
		}
		if again.Method != r.Method || again.Path != r.Path || again.Query != r.Query || again.HasQuery != r.HasQuery ||
			again.Host != r.Host || again.Authority != r.Authority || again.Asterisk != r.Asterisk {
			t.Fatalf("%q became %+v", head, again)
		}
		r.Header.DelKnown(exchange.TE) // it is for one connection
		if got, want := fieldText(&again.Header), fieldText(&r.Header); got != want {
			t.Fatalf("%q became %q", want, got)
		}
	})
}

// FuzzEncode writes what HPACK reads back.
func FuzzEncode(f *testing.F) {
	f.Add("Content-Type", "text/html", 200)
	f.Add("X-\xffA", " a\r\nb ", 404)
	f.Add("x", strings.Repeat("v", 300), 999)
	f.Fuzz(func(t *testing.T, name, value string, status int) {
		if status < 100 || status > 999 {
			return
		}
		var h exchange.Header
		h.Add(name, value)
		block := appendFields(appendStatus(nil, status), &h, 0)
		list, err := hpack.NewDecoder(4096, nil).DecodeFull(block)
		if err != nil {
			t.Fatal(err)
		}
		var check exchange.Header
		var b fieldBlock
		b.begin(responseHead, &check, 1<<20, 10)
		for _, f := range list {
			if f.Name == ":status" || exchange.LookupKnown(f.Name) == exchange.Other {
				b.field(f)
			}
		}
		if b.bad != nil {
			t.Fatalf("%q: %q was written: %v", name, list, b.bad)
		}
		if exchange.IsToken(name) && len(list) != 2 {
			t.Fatalf("%q became %v", name, list)
		}
	})
}

func FuzzPriority(f *testing.F) {
	f.Add("u=1, i")
	f.Add("u=9;a, i=?0")
	f.Fuzz(func(t *testing.T, v string) {
		if u, _ := parsePriority(v, defaultUrgency, false); u > 7 {
			t.Fatal(u)
		}
	})
}

// TestFrameLengths writes lengths where readers look for them.
func TestFrameLengths(t *testing.T) {
	b := appendGoAway(nil, 1, http2.ErrCodeNo, "text")
	if n := binary.BigEndian.Uint32(b) >> 8; int(n) != len(b)-frameHead {
		t.Error(n)
	}
}
