package h2

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/http2"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/wire"
)

// plainClient is net/http's client speaking HTTP/2 without TLS.
func plainClient(t testing.TB) *http.Client {
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// serving is a server for all that follows. begun and canceled tell of /wait.
type serving struct {
	*rig
	c        *http.Client
	url      string
	noise    []byte
	begun    chan bool
	canceled chan error
}

// newServing has net/http's client as oracle.
func newServing(t *testing.T) *serving {
	s := &serving{noise: make([]byte, 3<<20), begun: make(chan bool, 1), canceled: make(chan error, 1)}
	rand.Read(s.noise)
	l := tableLimits()
	l.Body = 8 << 20
	s.rig = newRig(t, l, s.serve)
	s.c, s.url = plainClient(t), "http://"+s.address
	return s
}

func (s *serving) serve(x *exchange.Exchange) {
	switch x.Request.Path {
	case "/echo":
		h := &x.Response.Header
		h.Add("X-Seen", fmt.Sprint(x.Request.Method, " ", x.Request.Authority, " ", x.Request.Host, " ", x.Request.Query, " ", x.Request.Length))
		h.Add("Set-Cookie", "a=1")
		h.Add("Set-Cookie", "b=2")
		echo(x)
	case "/stream":
		x.Response.Status, x.Response.Length = 200, exchange.Unknown
		x.Response.Body = x.Request.Body
		x.Response.Trailer.Add("X-Trailer", "t")
		finish(x)
	case "/noise":
		x.Response.Status = 200
		x.Response.SetBody(s.noise)
		finish(x)
	case "/hints":
		var h exchange.Header
		h.Add("Link", "</style.css>")
		if err := x.Down.Inform(103, &h); err != nil {
			s.t.Error(err)
		}
		reply(x, "done")
	case "/wait":
		s.begun <- true
		w := make(chanInterrupter, 1)
		if err := x.Bind(w); err == nil {
			<-w
		}
		x.Bind(nil)
		s.canceled <- x.Canceled()
		x.Down.Abort()
	case "/cut":
		x.Response.Status, x.Response.Length = 200, exchange.Unknown
		x.Down.WriteHead(x)
		x.Down.WriteBody([]byte("half"))
		x.Down.Abort()
	case "/trailer":
		if _, ok := readBody(x); ok {
			reply(x, fieldText(&x.Request.Trailer))
		}
	default:
		reply(x, fieldText(&x.Request.Header))
	}
}

func TestServer(t *testing.T) {
	r := newServing(t)
	t.Run("fields", func(t *testing.T) {
		req, _ := http.NewRequest("GET", r.url+"/?q", nil)
		req.Header["Cookie"] = []string{"a=1; b=2", "c=3"}
		req.Header.Set("X-Empty", "")
		got := fetch(t, r.c, req)
		for _, want := range []string{"cookie: a=1; b=2; c=3\n", "x-empty: \n", "user-agent: Go-http-client/2.0\n"} {
			if !strings.Contains(strings.ToLower(got), strings.ToLower(want)) {
				t.Errorf("no %q in %q", want, got)
			}
		}
	})
	t.Run("echo", func(t *testing.T) {
		req, _ := http.NewRequest("POST", r.url+"/echo?a=b", strings.NewReader("hello"))
		res, err := r.c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if string(body) != "hello" || res.ContentLength != 5 || len(res.Header["Set-Cookie"]) != 2 || res.Header.Get("Date") == "" {
			t.Errorf("%q %d %v", body, res.ContentLength, res.Header)
		}
		if got, want := res.Header.Get("X-Seen"), "POST "+r.address+" 127.0.0.1 a=b 5"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	})
	t.Run("head", func(t *testing.T) {
		res, err := r.c.Head(r.url + "/noise")
		if err != nil || res.ContentLength != int64(len(r.noise)) {
			t.Fatal(res, err)
		}
		res.Body.Close()
	})
	t.Run("trailer", func(t *testing.T) {
		req, _ := http.NewRequest("POST", r.url+"/trailer", io.MultiReader(strings.NewReader("x")))
		req.Trailer = http.Header{"X-Sum": {"1"}, "Authorization": {"no"}}
		if got := fetch(t, r.c, req); got != "x-sum: 1\n" {
			t.Errorf("%q", got)
		}
	})
	t.Run("interim", func(t *testing.T) {
		var links []string
		ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				links = append(links, fmt.Sprint(code, h.Get("Link")))
				return nil
			},
		})
		req, _ := http.NewRequestWithContext(ctx, "GET", r.url+"/hints", nil)
		if got := fetch(t, r.c, req); got != "done" || len(links) != 1 || links[0] != "103</style.css>" {
			t.Errorf("%q %v", got, links)
		}
	})
}

func TestServerBodies(t *testing.T) {
	r := newServing(t)
	t.Run("noise", func(t *testing.T) {
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				res, err := r.c.Get(r.url + "/noise")
				if err != nil {
					t.Error(err)
					return
				}
				defer res.Body.Close()
				if body, err := io.ReadAll(res.Body); err != nil || !bytes.Equal(body, r.noise) {
					t.Errorf("%d bytes, %v", len(body), err)
				}
			})
		}
		all.Wait()
	})
	t.Run("both ways", func(t *testing.T) {
		pr, pw := io.Pipe()
		req, _ := http.NewRequest("POST", r.url+"/stream", pr)
		res, err := r.c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b := make([]byte, 64)
		for i := range 20 {
			want := fmt.Sprint("message ", i)
			io.WriteString(pw, want)
			if _, err := io.ReadFull(res.Body, b[:len(want)]); err != nil || string(b[:len(want)]) != want {
				t.Fatalf("%q %v", b, err)
			}
		}
		pw.Close()
		if rest, err := io.ReadAll(res.Body); err != nil || len(rest) > 0 || res.Trailer.Get("X-Trailer") != "t" {
			t.Errorf("%q %v %v", rest, err, res.Trailer)
		}
	})
	t.Run("big both ways", func(t *testing.T) {
		res, err := r.c.Post(r.url+"/stream", "", bytes.NewReader(r.noise))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if body, err := io.ReadAll(res.Body); err != nil || !bytes.Equal(body, r.noise) {
			t.Errorf("%d bytes, %v", len(body), err)
		}
	})
}

func TestServerEnds(t *testing.T) {
	r := newServing(t)
	t.Run("cut", func(t *testing.T) {
		res, err := r.c.Get(r.url + "/cut")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if body, err := io.ReadAll(res.Body); err == nil || string(body) != "half" {
			t.Errorf("%q %v", body, err)
		}
	})
	t.Run("cancel", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		req, _ := http.NewRequestWithContext(ctx, "GET", r.url+"/wait", nil)
		go func() { <-r.begun; cancel() }()
		if _, err := r.c.Do(req); err == nil {
			t.Error("no error")
		}
		if err := <-r.canceled; !errors.Is(err, exchange.ErrClientGone) {
			t.Error(err)
		}
	})
	t.Run("too large", func(t *testing.T) {
		res, err := r.c.Post(r.url+"/echo", "", bytes.NewReader(make([]byte, 9<<20)))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != 413 {
			t.Error(res.Status)
		}
	})
	t.Run("large head", func(t *testing.T) {
		req, _ := http.NewRequest("GET", r.url+"/", nil)
		for i := range 60 {
			req.Header.Set(fmt.Sprint("X-", i), "v")
		}
		res, err := r.c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != 431 {
			t.Error(res.Status)
		}
	})
}

type chanInterrupter chan struct{}

func (c chanInterrupter) Interrupt() {
	select {
	case c <- struct{}{}:
	default:
	}
}

func fetch(t *testing.T, c *http.Client, req *http.Request) string {
	t.Helper()
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// TestDrain lets a client finish what it has begun, and no more.
func TestDrain(t *testing.T) {
	begun, let := make(chan bool), make(chan bool)
	r := newRig(t, tableLimits(), func(x *exchange.Exchange) {
		if x.Request.Path == "/slow" {
			begun <- true
			<-let
		}
		reply(x, "done")
	})
	c := plainClient(t)
	res := make(chan string)
	go func() {
		req, _ := http.NewRequest("GET", "http://"+r.address+"/slow", nil)
		res <- fetch(t, c, req)
	}()
	<-begun
	r.s.Drain()
	close(let)
	if got := <-res; got != "done" {
		t.Error(got)
	}
	<-r.ended

	nc, err := net.Dial("tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := io.Copy(io.Discard, nc); err != nil {
		t.Error(err)
	}
}

// TestContinue serves a connection of which the beginning was read by somebody
// who wanted to know what it speaks.
func TestContinue(t *testing.T) {
	sweeper := wire.NewSweeper()
	defer sweeper.Close()
	s := &Server{Handler: echo}
	s.Limits.Store(tableLimits())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for early := range len(preface) + 30 {
		here, there := dialPair(t, ln)
		c := newRaw(t, here)
		var first bytes.Buffer
		first.WriteString(preface)
		first.Write(appendSettings(nil))
		block := c.fields(simple...)
		first.Write(appendFrame(nil, len(block), http2.FrameHeaders, 5, 1))
		first.Write(block)
		b := wire.GetBuffer()
		n := copy(b.B, first.Bytes()[:early])
		ended := make(chan bool)
		if n == 0 {
			b.Put()
			s.Start(wire.New(there, sweeper), &exchange.Client{}, func() { close(ended) })
		} else {
			s.Continue(wire.New(there, sweeper), &exchange.Client{}, b, n, func() { close(ended) })
		}
		here.Write(first.Bytes()[early:])
		if got := c.next(); !strings.HasPrefix(got, "headers 1 :status=200") {
			t.Fatal(got)
		}
		here.Close()
		<-ended
	}
}

// TestBodyCut never takes a body for whole whose client has gone.
func TestBodyCut(t *testing.T) {
	got := make(chan error, 1)
	r := newRig(t, tableLimits(), func(x *exchange.Exchange) {
		for {
			if _, err := x.Request.Body.Next(); err != nil {
				got <- err
				x.Down.Abort()
				return
			}
		}
	})
	for _, how := range []string{"end", "reset", "connection error"} {
		c := r.dial()
		c.request(1, false, with(":method", "POST")...)
		c.fr.WriteData(1, false, []byte("half"))
		switch how {
		case "end":
			c.nc.(*net.TCPConn).CloseWrite()
		case "reset":
			c.fr.WriteRSTStream(1, http2.ErrCodeCancel)
		default:
			c.fr.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1})
		}
		if err := <-got; err == io.EOF || !errors.Is(err, exchange.ErrClientGone) {
			t.Error(how, err)
		}
	}
}

// TestAwkwardWindow lets a client be whose window is never a multiple of
// anything.
func TestAwkwardWindow(t *testing.T) {
	r := newRig(t, tableLimits(), guarded)
	c := r.dial(http2.Setting{ID: http2.SettingInitialWindowSize, Val: maxFrame + 1})
	c.request(1, true, with(":path", "/noise")...)
	c.expect("headers 1 :status=200")
	for total := 0; total < 1<<20; {
		var id, n int
		got := c.next()
		if _, err := fmt.Sscanf(got, "data %d %d", &id, &n); err != nil {
			t.Fatal(got)
		}
		if total += n; n < maxFrame {
			c.fr.WriteWindowUpdate(0, maxFrame+1)
			c.fr.WriteWindowUpdate(1, maxFrame+1)
		}
	}
}

// TestUrgency serves the urgent first when the connection is what all wait for
// (RFC 9218).
func TestUrgency(t *testing.T) {
	r := newRig(t, tableLimits(), guarded)
	c := r.dial(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	for i, priority := range []string{"u=5", "u=3, i", "u=3, i", "u=1", ""} {
		c.request(uint32(2*i+1), true, with(":path", "/noise", "priority", priority)...)
		c.expect(fmt.Sprintf("headers %d :status=200", 2*i+1))
		if i == 0 {
			for total := 0; total < defaultWindow; { // the connection's window
				var id, n int
				fmt.Sscanf(c.next(), "data %d %d", &id, &n)
				total += n
			}
		}
	}
	c.fr.WritePriorityUpdate(9, "u=0")
	waiting := func() (n int) {
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		for k := range r.s.conns {
			k.mu.Lock()
			n += len(k.queue)
			if s := k.streams[9]; s != nil && s.urgency != 0 {
				n = 0
			}
			k.mu.Unlock()
		}
		return n
	}
	for waiting() < 5 {
		runtime.Gosched()
	}
	// A frame at a time: 9, 7, then 3 and 5 by turns.
	want := []int{9, 9, 7, 7, 3, 5, 3, 5, 1}
	var order []int
	take := func(frames int) {
		for range frames {
			c.fr.WriteWindowUpdate(0, maxFrame)
			var id, n int
			fmt.Sscanf(c.next(), "data %d %d", &id, &n)
			order = append(order, id)
		}
	}
	take(2)
	c.fr.WriteRSTStream(9, http2.ErrCodeCancel)
	take(2)
	c.fr.WriteRSTStream(7, http2.ErrCodeCancel)
	take(4)
	c.fr.WriteRSTStream(3, http2.ErrCodeCancel)
	c.fr.WriteRSTStream(5, http2.ErrCodeCancel)
	take(1)
	if fmt.Sprint(order) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", order, want)
	}
}

// A client that reads late what it was sent gives the window back late, and in
// portions as small as it reads.
func TestWindowGivenBackLate(t *testing.T) {
	const size, window, portion = 8 << 20, 4 << 20, 2 << 10
	r := newRig(t, tableLimits(), func(x *exchange.Exchange) { reply(x, strings.Repeat("x", size)) })
	c := r.dial(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window})
	c.fr.WriteWindowUpdate(0, window-defaultWindow)
	c.request(1, true, simple...)
	c.expect("headers 1 :status=200")
	var got int
	read := func(most int) {
		t.Helper()
		for got < most {
			f, err := c.fr.ReadFrame()
			if err != nil {
				t.Fatalf("after %d bytes: %v", got, err)
			}
			switch f := f.(type) {
			case *http2.DataFrame:
				got += len(f.Data())
			case *http2.GoAwayFrame:
				t.Fatalf("after %d bytes: %v %s", got, f.ErrCode, f.DebugData())
			}
		}
	}
	give := func() {
		var out bytes.Buffer
		fr := http2.NewFramer(&out, nil)
		for range window / portion {
			fr.WriteWindowUpdate(1, portion)
			fr.WriteWindowUpdate(0, portion)
		}
		if _, err := c.nc.Write(out.Bytes()); err != nil {
			t.Error(err)
		}
	}
	read(window)
	give()
	read(size)
	give() // the stream has ended
	c.request(3, true, simple...)
	c.expect("headers 3 :status=200")
}
