package front

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
)

// listener3 is a listener that speaks HTTP/3 beside HTTP/1.1.
func listener3() *config.Listener {
	cfg := listenerOf("native-tls")
	cfg.Protocols = config.StringList{"http1", "http3"}
	return cfg
}

// client3 is a client of HTTP/3.
type client3 struct {
	t testing.TB
	http3.Transport
	url string
}

func (r *rig) dial3(t testing.TB) *client3 {
	t.Helper()
	c := &client3{t: t, url: "https://" + r.address}
	c.TLSClientConfig = trusting()
	c.DisableCompression = true
	t.Cleanup(func() { c.Close() })
	return c
}

// do sends a request and reads its answer.
func (c *client3) do(method, path string, body io.Reader, change func(*http.Request)) (*http.Response, string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, c.url+path, body)
	if err != nil {
		c.t.Fatal(err)
	}
	req.Host = "a.example"
	if change != nil {
		change(req)
	}
	res, err := c.RoundTrip(req)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	all, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatalf("%s %s: body: %v", method, path, err)
	}
	return res, string(all)
}

func TestHTTP3(t *testing.T) {
	r := newRig(t, listener3(), func(x *exchange.Exchange) {
		q := &x.Request
		if q.Proto == exchange.HTTP11 {
			reply(x, x.Client.AltSvc)
			return
		}
		if q.Proto != exchange.HTTP3 || q.Scheme != "https" || q.Authority != "a.example" || x.Client.TLS == nil || x.Client.TLS.Protocol != "h3" || x.Client.IP != "127.0.0.1" || x.Client.AltSvc != "" {
			t.Errorf("%+v, client %+v", q, x.Client)
		}
		if q.Method != "POST" && q.Length != 0 {
			t.Errorf("%s has a body of %d", q.Method, q.Length)
		}
		switch q.RawPath {
		case "/empty":
			x.Response.Status = 204
			finish(x)
		case "/trailers":
			body, _ := readBody(x)
			x.Response.Trailer.Add("X-After", q.Trailer.Get("x-sum"))
			answerOf(x, body, "!")
		case "/fields":
			x.Response.Header.Add("X-Two", "1")
			x.Response.Header.Add("X-Two", "2")
			reply(x, q.Header.Get("cookie")+"|"+q.Query)
		default:
			echo(x)
		}
	})
	c := r.dial3(t)
	if res, body := c.do("POST", "/", strings.NewReader("hello"), nil); res.StatusCode != 200 || body != "hello" || res.ContentLength != 5 || res.Proto != "HTTP/3.0" {
		t.Errorf("%v %q", res, body)
	}
	long := string(bytes.Repeat([]byte("0123456789abcdef"), 4000)) // as long as a body may be
	if _, body := c.do("POST", "/", struct{ io.Reader }{strings.NewReader(long)}, nil); body != long {
		t.Errorf("%d bytes of %d", len(body), len(long))
	}
	if res, body := c.do("HEAD", "/", nil, nil); res.StatusCode != 200 || body != "" {
		t.Errorf("%v %q", res, body)
	}
	if res, _ := c.do("GET", "/empty", nil, nil); res.StatusCode != 204 || res.Header.Get("Content-Length") != "" {
		t.Errorf("%v", res)
	}
	res, body := c.do("POST", "/trailers", struct{ io.Reader }{strings.NewReader("x")}, func(q *http.Request) { q.Trailer = http.Header{"X-Sum": {"7"}} })
	if body != "x!" || res.Trailer.Get("X-After") != "7" {
		t.Errorf("%q %v", body, res.Trailer)
	}
	res, body = c.do("GET", "/fields?a=b", nil, func(q *http.Request) { q.Header["Cookie"] = []string{"a=1", "b=2"} })
	if body != "a=1; b=2|a=b" || len(res.Header["X-Two"]) != 2 {
		t.Errorf("%q %v", body, res.Header)
	}
	// Beside it HTTP/1.1 runs, and tells of it.
	k := r.dial(t)
	k.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
	if _, body = k.answer("GET"); !strings.HasPrefix(body, `h3=":`) || !strings.HasSuffix(r.address, strings.Split(body, `"`)[1]) {
		t.Errorf("%q", body)
	}
}

func TestHTTP3Refuses(t *testing.T) {
	r := newRig(t, listener3(), echo)
	c := r.dial3(t)
	for name, f := range map[string]struct {
		status int
		method string
		body   io.Reader
		change func(*http.Request)
	}{
		"many fields": {431, "GET", nil, func(q *http.Request) {
			for range 60 {
				q.Header.Add("X-Field", "x")
			}
		}},
		"large head":       {431, "GET", nil, func(q *http.Request) { q.Header.Set("X-Field", strings.Repeat("x", 9000)) }},
		"crumbs":           {431, "GET", nil, func(q *http.Request) { q.Header.Set("Cookie", strings.Repeat("a=b; ", 60)+"c=d") }},
		"large body":       {413, "POST", strings.NewReader(strings.Repeat("x", 65537)), nil},
		"large stream":     {413, "POST", struct{ io.Reader }{strings.NewReader(strings.Repeat("x", 65537))}, nil},
		"TRACE":            {405, "TRACE", nil, nil},
		"odd authority":    {400, "GET", nil, func(q *http.Request) { q.Host = "a.example:port" }},
		"odd expectations": {417, "GET", nil, func(q *http.Request) { q.Header.Set("Expect", "more") }},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(r.refusals())
			if res, _ := c.do(f.method, "/", f.body, f.change); res.StatusCode != f.status {
				t.Errorf("status %d, want %d", res.StatusCode, f.status)
			}
			if f.body == nil && len(r.refusals()) != before+1 {
				t.Errorf("reported: %q", r.refusals())
			}
		})
	}
}

// A client that resets its stream, or leaves, cancels its exchange.
func TestHTTP3ClientsThatGoCancel(t *testing.T) {
	begun, over := make(chan struct{}), make(chan error, 1)
	r := newRig(t, listener3(), func(x *exchange.Exchange) {
		w := make(waker)
		if err := x.Bind(w); err != nil {
			t.Error(err)
		}
		begun <- struct{}{}
		<-w
		over <- x.Bind(nil)
		x.Down.Abort()
	})
	c := r.dial3(t)
	for _, leaves := range []bool{false, true} {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, "GET", c.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			<-begun
			if leaves {
				c.Close()
			} else {
				cancel()
			}
		}()
		if res, err := c.RoundTrip(req); err == nil {
			t.Errorf("answer %v", res)
		}
		if err := <-over; !errors.Is(err, exchange.ErrClientGone) {
			t.Error(err)
		}
	}
}

// An answer that breaks off resets the stream, and only that.
func TestHTTP3AnswerBreaksOff(t *testing.T) {
	r := newRig(t, listener3(), func(x *exchange.Exchange) {
		if x.Request.RawPath == "/whole" {
			reply(x, "whole")
			return
		}
		x.Response.Status, x.Response.Length = 200, exchange.Unknown
		x.Response.Body = &stream{pieces: []string{"half"}, err: errors.New("broke")}
		finish(x)
	})
	c := r.dial3(t)
	req, _ := http.NewRequest("GET", c.url, nil)
	res, err := c.RoundTrip(req)
	if err == nil {
		var all []byte
		all, err = io.ReadAll(res.Body)
		if string(all) != "half" {
			t.Errorf("%q", all)
		}
	}
	if err == nil {
		t.Error("the answer looked complete")
	}
	if _, body := c.do("GET", "/whole", nil, nil); body != "whole" {
		t.Errorf("%q", body)
	}
}

// What runs is answered when the gateway drains, and the client hears that no
// more is taken.
func TestHTTP3Drains(t *testing.T) {
	begun, go_ := make(chan struct{}), make(chan struct{})
	r := newRig(t, listener3(), func(x *exchange.Exchange) {
		close(begun)
		<-go_
		reply(x, "late")
	})
	c := r.dial3(t)
	answers := make(chan string, 1)
	go func() {
		_, body := c.do("GET", "/", nil, nil)
		answers <- body
	}()
	<-begun
	drained := make(chan int, 1)
	go func() { drained <- r.f.Drain(context.Background()) }()
	for len(r.f.Listeners()) > 0 {
		time.Sleep(time.Millisecond)
	}
	close(go_)
	if body := <-answers; body != "late" {
		t.Errorf("%q", body)
	}
	if n := <-drained; n != 0 {
		t.Errorf("%d were cut", n)
	}
}

// A reload takes HTTP/3 away and gives it back, on the same port.
func TestHTTP3ComesAndGoes(t *testing.T) {
	cfg := listener3()
	r := newRig(t, cfg, pathOf)
	if _, body := r.dial3(t).do("GET", "/a", nil, nil); body != "test/a" {
		t.Errorf("%q", body)
	}
	without := with(cfg, func(l *config.Listener) { l.Protocols = config.StringList{"http1"} })
	r.apply(without)
	l := r.f.open[cfg.Address+" "+cfg.Name]
	l.mu.Lock()
	for len(l.quics) > 0 { // the old socket is not closed yet
		l.room.Wait()
	}
	l.mu.Unlock()
	r.apply(cfg)
	if _, body := r.dial3(t).do("GET", "/b", nil, nil); body != "test/b" {
		t.Errorf("%q", body)
	}
}

// Requests before the handshake is complete are taken when the listener says
// so, and then only those that may be repeated.
func TestHTTP3EarlyData(t *testing.T) {
	for _, early := range []bool{false, true} {
		cfg := listener3()
		cfg.TLS = tlsOf(t.TempDir())
		cfg.TLS.EarlyData = early
		r := newRig(t, cfg, func(x *exchange.Exchange) { reply(x, x.Request.Method+" "+x.Request.Header.Get("early-data")) })
		config, tokens := trusting(), quic.NewLRUTokenStore(1, 10)
		config.ClientSessionCache = tls.NewLRUClientSessionCache(10)
		dial := func() *client3 {
			c := r.dial3(t)
			c.TLSClientConfig, c.QUICConfig = config, &quic.Config{TokenStore: tokens}
			return c
		}
		c := dial()
		c.do("GET", "/", nil, nil)
		c.Close()
		for _, method := range []string{http3.MethodGet0RTT, "POST"} {
			c := dial()
			_, body := c.do(method, "/", nil, nil)
			t.Logf("early data %v: %s became %q", early, method, body)
			if body != "GET " && (body != "GET 1" || !early) && body != "POST " {
				t.Errorf("early data %v: %q", early, body)
			}
			c.Close()
		}
	}
}

// deaf is a client's socket that hears nothing until it is let: until then its
// handshake cannot be complete.
type deaf struct {
	net.PacketConn
	hears chan struct{}
}

func (d *deaf) ReadFrom(p []byte) (int, net.Addr, error) {
	<-d.hears
	return d.PacketConn.ReadFrom(p)
}

// A request that came early and may change something is not served.
func TestHTTP3TooEarly(t *testing.T) {
	cfg := listener3()
	cfg.TLS = tlsOf(t.TempDir())
	cfg.TLS.EarlyData = true
	var served atomic.Int32
	r := newRig(t, cfg, func(x *exchange.Exchange) {
		served.Add(1)
		reply(x, x.Request.Method+x.Request.Header.Get("early-data"))
	})
	conf, tokens := trusting(), quic.NewLRUTokenStore(1, 10)
	conf.ClientSessionCache = tls.NewLRUClientSessionCache(10)
	conf.NextProtos = []string{"h3"}
	first := r.dial3(t)
	first.TLSClientConfig, first.QUICConfig = conf, &quic.Config{TokenStore: tokens}
	first.do("GET", "/", nil, nil)
	first.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for method, want := range map[string]int{"POST": 425, "DELETE": 425, "GET": 200} {
		pc, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		d := &deaf{pc, make(chan struct{})}
		transport := &quic.Transport{Conn: d}
		to, err := net.ResolveUDPAddr("udp", r.address)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := transport.DialEarly(ctx, to, conf, &quic.Config{TokenStore: tokens})
		if err != nil {
			t.Fatal(err)
		}
		c := r.dial3(t)
		cc := c.NewClientConn(conn)
		ask := func() *http3.RequestStream {
			str, err := cc.OpenRequestStream(ctx)
			if err != nil {
				t.Fatal(err)
			}
			req, _ := http.NewRequest(method, c.url, nil)
			req.Host = "a.example"
			if err := errors.Join(str.SendRequestHeader(req), str.Close()); err != nil {
				t.Fatal(err)
			}
			return str
		}
		before := int(served.Load()) + len(r.refusals())
		str := ask()
		for int(served.Load())+len(r.refusals()) == before {
			time.Sleep(time.Millisecond)
		}
		close(d.hears)
		res, err := str.ReadResponse()
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(str)
		if res.StatusCode != want || want == 200 && string(body) != "GET1" {
			t.Errorf("%s early: %d %q", method, res.StatusCode, body)
		}
		<-conn.HandshakeComplete()
		if res, err := ask().ReadResponse(); err != nil || res.StatusCode != 200 {
			t.Errorf("%s again: %v, %v", method, res, err)
		}
		_ = conn.CloseWithError(0, "")
		_ = transport.Close()
		_ = pc.Close()
	}
}

// A WebSocket by extended CONNECT is the handshake of HTTP/1.1 to everybody
// else, and its bytes flow both ways.
func TestHTTP3WebSocket(t *testing.T) {
	over := make(chan struct{})
	r := newRig(t, listener3(), func(x *exchange.Exchange) {
		q := &x.Request
		key := q.Header.Get("sec-websocket-key")
		if q.Method != "GET" || q.Upgrade != "websocket" || key == "" {
			t.Errorf("%+v", q)
		}
		if q.RawPath == "/other" {
			x.Response.Status = 403
			x.Response.SetBody(nil)
			finish(x)
			return
		}
		defer close(over)
		x.Response.Status = 101
		x.Response.Header.Add("Upgrade", "websocket")
		x.Response.Header.Add("Sec-WebSocket-Protocol", "chat")
		x.Response.Header.Add("Sec-WebSocket-Accept", acceptFor(key))
		s, err := x.Down.Upgrade(x)
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := io.Copy(s, s); err != nil {
			t.Error(err)
		}
		if err := errors.Join(s.CloseWrite(), s.Close()); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c := r.dial3(t)
	conf := trusting()
	conf.NextProtos = []string{"h3"}
	conn, err := quic.DialAddr(ctx, r.address, conf, &quic.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseWithError(0, "")
	cc := c.NewClientConn(conn)
	open := func(path string) (*http3.RequestStream, *http.Response) {
		str, err := cc.OpenRequestStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		req, _ := http.NewRequest(http.MethodConnect, c.url+path, nil)
		req.Host, req.Proto = "a.example", "websocket"
		if err := str.SendRequestHeader(req); err != nil {
			t.Fatal(err)
		}
		res, err := str.ReadResponse()
		if err != nil {
			t.Fatal(err)
		}
		return str, res
	}
	if _, res := open("/other"); res.StatusCode != 403 {
		t.Error(res)
	}
	str, res := open("/chat")
	if res.StatusCode != 200 || res.Header.Get("Sec-Websocket-Protocol") != "chat" || res.Header.Get("Sec-Websocket-Accept") != "" {
		t.Errorf("%v", res)
	}
	if _, err := str.Write([]byte("hello")); err != nil {
		t.Error(err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(str, b); err != nil || string(b) != "hello" {
		t.Errorf("%q %v", b, err)
	}
	if err := str.Close(); err != nil {
		t.Error(err)
	}
	if rest, err := io.ReadAll(str); err != nil || len(rest) > 0 {
		t.Errorf("%q %v", rest, err)
	}
	<-over
}

func acceptFor(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}
