package h1

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/exchange"
)

func TestKeepAlive(t *testing.T) {
	for _, c := range []struct {
		request    string
		again      bool
		connection string // of the answer
	}{
		{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", true, ""},
		{"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", true, ""},
		{"GET / HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n", false, "close"},
		{"GET / HTTP/1.1\r\nHost: a\r\nConnection: a, close\r\n\r\n", false, "close"},
		{"GET / HTTP/1.1\r\nHost: a\r\nConnection: a\r\nConnection: close\r\n\r\n", false, "close"},
		{"GET / HTTP/1.0\r\nHost: a\r\n\r\n", false, "close"},
		{"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", true, "keep-alive"},
		{"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive, close\r\n\r\n", false, "close"},
	} {
		r := newRig(t, tableLimits(), func(x *exchange.Exchange) { reply(x, "hello") })
		k := r.dial()
		k.send(c.request)
		res, body := k.answer("GET")
		if got := res.Header.Get("Connection"); got != c.connection && !(res.Close && c.connection == "close") || body != "hello" {
			t.Errorf("%q: Connection: %q, body %q", c.request, got, body)
		}
		if !c.again {
			k.expectEnd()
			continue
		}
		k.send(simple)
		if _, body := k.answer("GET"); body != "hello" {
			t.Errorf("%q: second body %q", c.request, body)
		}
	}
}

func TestPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	r := newRig(t, tableLimits(), func(x *exchange.Exchange) {
		body, _ := readBody(x)
		reply(x, x.Request.Path+" "+body)
	})
	var all strings.Builder
	for i := range 300 {
		switch i % 3 {
		case 0:
			fmt.Fprintf(&all, "GET /%d HTTP/1.1\r\nHost: a\r\n\r\n", i)
		case 1:
			fmt.Fprintf(&all, "POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%d", i, len(fmt.Sprint(i)), i)
		case 2:
			fmt.Fprintf(&all, "POST /%d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%d\r\n0\r\n\r\n", i, len(fmt.Sprint(i)), i)
		}
	}
	k := r.dial()
	go k.send(all.String())
	for i := range 300 {
		want := fmt.Sprintf("/%d ", i)
		if i%3 > 0 {
			want += fmt.Sprint(i)
		}
		if _, body := k.answer("GET"); body != want {
			t.Fatalf("answer %d is %q", i, body)
		}
	}
}

func TestFramingOfAnswers(t *testing.T) {
	stream := func(status int, length int64) func(*exchange.Exchange) {
		return func(x *exchange.Exchange) {
			x.Response.Status, x.Response.Length = status, length
			if err := x.Down.WriteHead(x); err != nil {
				t.Error(err)
			}
			for _, p := range []string{"he", "llo"} {
				if err := x.Down.WriteBody([]byte(p)); err != nil {
					t.Error(err)
				}
			}
			x.Response.Trailer.Add("A", "b")
			x.Response.Trailer.Add("Content-Length", "7")
			if err := x.Down.Finish(x); err != nil {
				t.Error(err)
			}
		}
	}
	const proto10 = "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"
	for _, c := range []struct {
		name, request string
		handler       func(*exchange.Exchange)
		want          string // after status line and Date
		ends          bool
	}{
		{"counted", simple, stream(200, 5), "Content-Length: 5\r\n\r\nhello", false},
		{"chunked", simple, stream(200, exchange.Unknown), "Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\nA: b\r\n\r\n", false},
		{"unknown length for HTTP/1.0", proto10, stream(200, exchange.Unknown), "Connection: close\r\n\r\nhello", true},
		{"known length for HTTP/1.0", proto10, stream(200, 5), "Content-Length: 5\r\nConnection: keep-alive\r\n\r\nhello", false},
		{"HEAD", "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", stream(200, 5), "Content-Length: 5\r\n\r\n", false},
		{"HEAD of unknown length", "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", stream(200, exchange.Unknown), "\r\n", false},
		{"204", simple, stream(204, 0), "\r\n", false},
		{"204 with a body", simple, stream(204, 5), "\r\n", false},
		{"304", simple, stream(304, 0), "\r\n", false},
		{"304 with the length of the answer", simple, stream(304, 5), "Content-Length: 5\r\n\r\n", false},
		{"304 of unknown length", simple, stream(304, exchange.Unknown), "\r\n", false},
		{"empty", simple, func(x *exchange.Exchange) { reply(x, "") }, "Server: gatehouse\r\nContent-Length: 0\r\n\r\n", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, tableLimits(), c.handler)
			k := r.dial()
			k.t = t
			k.send(c.request)
			for _, prefix := range []string{"HTTP/1.1 ", "Date: "} {
				line, err := k.r.ReadString('\n')
				if err != nil || !strings.HasPrefix(line, prefix) {
					t.Fatalf("line %q, %v", line, err)
				}
			}
			k.expect(c.want)
			if c.ends {
				k.expectEnd()
				return
			}
			k.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
			k.expect("HTTP/1.1 ")
		})
	}
}

func TestDateAndServerOfTheUpstreamStay(t *testing.T) {
	r := newRig(t, tableLimits(), func(x *exchange.Exchange) {
		x.Response.Header.Add("Server", "theirs")
		x.Response.Header.Add("Date", "then")
		x.Response.Header.Add("Connection", "X-A")
		x.Response.Header.Add("Transfer-Encoding", "gzip")
		x.Response.Header.Add("Content-Length", "77")
		reply(x, "hello")
	})
	k := r.dial()
	k.send(simple)
	k.expect("HTTP/1.1 200 OK\r\nServer: theirs\r\nDate: then\r\nContent-Length: 5\r\n\r\nhello")
}

func TestFieldsCannotBreakOutOfTheirPlace(t *testing.T) {
	r := newRig(t, tableLimits(), func(x *exchange.Exchange) {
		x.Response.Header.Add("Date", "then\r\nX-Evil: 1")
		x.Response.Header.Add("A\r\nX-Evil", "1")
		x.Response.Header.Add("", "1")
		reply(x, "")
	})
	k := r.dial()
	k.send(simple)
	k.expect("HTTP/1.1 200 OK\r\nDate: then  X-Evil: 1\r\nServer: gatehouse\r\n")
}

func TestAnswersOtherThanTheirLengthAreCut(t *testing.T) {
	for _, c := range []struct {
		length int64
		body   string
	}{{4, "hello"}, {6, "hello"}} {
		failed := make(chan error, 1)
		r := newRig(t, tableLimits(), func(x *exchange.Exchange) {
			x.Response.Status, x.Response.Length = 200, c.length
			err := x.Down.WriteHead(x)
			err = errors.Join(err, x.Down.WriteBody([]byte(c.body)))
			failed <- errors.Join(err, x.Down.Finish(x))
		})
		k := r.dial()
		k.send(simple + simple)
		if err := <-failed; err == nil {
			t.Errorf("length %d: no error", c.length)
		}
		res, err := http.ReadResponse(k.r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(res.Body); err == nil {
			t.Errorf("length %d: whole body %q", c.length, body)
		}
		if rest, _ := io.ReadAll(k.r); len(rest) > 0 {
			t.Errorf("length %d: then %q", c.length, rest)
		}
	}
}

func TestAbortedAnswersAreVisiblyCut(t *testing.T) {
	for _, c := range []struct {
		request string
		length  int64
	}{{simple, 10}, {simple, exchange.Unknown}, {"GET / HTTP/1.0\r\n\r\n", exchange.Unknown}} {
		r := newRig(t, tableLimits(), func(x *exchange.Exchange) {
			x.Response.Status, x.Response.Length = 200, c.length
			if err := x.Down.WriteHead(x); err != nil {
				t.Error(err)
			}
			if err := x.Down.WriteBody([]byte("hello")); err != nil {
				t.Error(err)
			}
			if err := x.Down.Flush(); err != nil {
				t.Error(err)
			}
			x.Down.Abort()
		})
		k := r.dial()
		k.send(c.request)
		res, err := http.ReadResponse(k.r, nil)
		if err != nil {
			continue // a reset may overtake even the head
		}
		if body, err := io.ReadAll(res.Body); err == nil {
			t.Errorf("%q, length %d: whole body %q", c.request, c.length, body)
		}
	}
}

func TestHandlerThatDoesNotAnswerEndsTheConnection(t *testing.T) {
	r := newRig(t, tableLimits(), func(*exchange.Exchange) {})
	k := r.dial()
	k.send(simple)
	k.expectEnd()
}

func TestTrailersOfRequests(t *testing.T) {
	got := make(chan string, 1)
	r := newRig(t, tableLimits(), func(x *exchange.Exchange) {
		body, _ := readBody(x)
		got <- body + "\n" + fieldText(&x.Request.Trailer)
		reply(x, "")
	})
	k := r.dial()
	k.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n" +
		"A: 1\r\nHost: b\r\nauthorization: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\nCookie: a=b\r\n" +
		"X-Forwarded-For: 1.2.3.4\r\nX-FORWARDED-SSL: on\r\nX_Forwarded_For: 1.2.3.4\r\nForwarded: for=a\r\nB: 2\r\n\r\n")
	if s := <-got; s != "hello\nA: 1\nB: 2\n" {
		t.Fatalf("%q", s)
	}
	k.answer("POST")
}

func TestContinueIsSentWhenTheBodyIsPulled(t *testing.T) {
	const head = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\n"
	t.Run("pulled", func(t *testing.T) {
		k := newRig(t, tableLimits(), echo).dial()
		k.t = t
		k.send(head)
		k.expect("HTTP/1.1 100 Continue\r\n\r\n")
		k.send("hello")
		if _, body := k.answer("POST"); body != "hello" {
			t.Fatalf("%q", body)
		}
		k.send(simple)
		k.answer("GET")
	})
	t.Run("body is there", func(t *testing.T) {
		k := newRig(t, tableLimits(), echo).dial()
		k.t = t
		k.send(head + "hello")
		if res, body := k.answer("POST"); res.StatusCode != 200 || body != "hello" {
			t.Fatalf("%d %q", res.StatusCode, body)
		}
	})
	t.Run("said by the upstream", func(t *testing.T) {
		k := newRig(t, tableLimits(), func(x *exchange.Exchange) {
			var h exchange.Header
			h.Add("A", "b")
			for range 2 {
				if err := x.Down.Inform(100, &h); err != nil {
					t.Error(err)
				}
			}
			echo(x)
		}).dial()
		k.t = t
		k.send(head)
		k.expect("HTTP/1.1 100 Continue\r\nA: b\r\n\r\n")
		k.send("hello")
		if _, body := k.answer("POST"); body != "hello" {
			t.Fatalf("%q", body)
		}
	})
	t.Run("not pulled", func(t *testing.T) {
		k := newRig(t, tableLimits(), func(x *exchange.Exchange) { reply(x, "no") }).dial()
		k.t = t
		k.send(head)
		if res, body := k.answer("POST"); body != "no" || !res.Close {
			t.Fatalf("%q, closes %v", body, res.Close)
		}
		k.expectEnd()
	})
}

func TestInterimAnswers(t *testing.T) {
	handler := func(x *exchange.Exchange) {
		var h exchange.Header
		h.Add("Link", "</a>; rel=preload")
		h.Add("Connection", "x")
		for _, status := range []int{100, 103, 101, 102} {
			if err := x.Down.Inform(status, &h); err != nil {
				t.Error(err)
			}
		}
		reply(x, "")
	}
	k := newRig(t, tableLimits(), handler).dial()
	k.send(simple)
	k.expect("HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n" +
		"HTTP/1.1 102 Processing\r\nLink: </a>; rel=preload\r\n\r\nHTTP/1.1 200 OK\r\n")
	old := newRig(t, tableLimits(), handler).dial()
	old.send("GET / HTTP/1.0\r\n\r\n")
	old.expect("HTTP/1.1 200 OK\r\n")
}

func TestAnswerWhileTheClientStillSends(t *testing.T) {
	l := tableLimits()
	l.Body = 1 << 30
	deny := func(x *exchange.Exchange) { reply(x, "denied") }
	t.Run("a lot", func(t *testing.T) {
		for _, framing := range []string{"Content-Length: 100000000", "Transfer-Encoding: chunked"} {
			k := newRig(t, l, deny).dial()
			k.t = t
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				k.send("POST / HTTP/1.1\r\nHost: a\r\n" + framing + "\r\n\r\n")
				piece := "10000\r\n" + strings.Repeat("x", 0x10000) + "\r\n"
				for range 1000 {
					if _, err := io.WriteString(k.TCPConn, piece); err != nil {
						return
					}
				}
			}()
			if _, body := k.answer("POST"); body != "denied" {
				t.Fatalf("%q", body)
			}
			k.Close()
			<-sent
		}
	})
	t.Run("a little", func(t *testing.T) {
		for _, rest := range []string{
			"Content-Length: 100000\r\n\r\n" + strings.Repeat("x", 100000),
			"Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("5\r\nhello\r\n", 10000) + "0\r\n\r\n",
		} {
			k := newRig(t, l, deny).dial()
			k.t = t
			go k.send("POST / HTTP/1.1\r\nHost: a\r\n" + rest + simple)
			for range 2 {
				if res, body := k.answer("POST"); body != "denied" || res.Close {
					t.Fatalf("%q, closes %v", body, res.Close)
				}
			}
		}
	})
}

func TestAnswerWhileAnotherGoroutineHasTheBody(t *testing.T) {
	l := tableLimits()
	l.Body = 0
	r := newRig(t, l, func(x *exchange.Exchange) {
		x.Request.Lent = true
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				if _, err := x.Request.Body.Next(); err != nil {
					return
				}
			}
		}()
		x.Response.Status, x.Response.Length = 200, exchange.Unknown
		if err := x.Down.WriteHead(x); err != nil {
			t.Error(err)
		}
		for range 100 {
			if err := errors.Join(x.Down.WriteBody([]byte("hello")), x.Down.Flush()); err != nil {
				t.Error(err)
			}
		}
		x.Request.Body.(exchange.Interrupter).Interrupt()
		<-done
		x.Request.Body.Close()
		x.Request.Lent = false
		if x.Canceled() != nil {
			t.Error("the exchange was cancelled")
		}
		if err := x.Down.Finish(x); err != nil {
			t.Error(err)
		}
	})
	k := r.dial()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		k.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000000\r\n\r\n")
		for piece := make([]byte, 1<<16); ; {
			if _, err := k.Write(piece); err != nil {
				return
			}
		}
	}()
	if res, body := k.answer("POST"); body != strings.Repeat("hello", 100) || !res.Close {
		t.Fatalf("%d bytes, closes %v", len(body), res.Close)
	}
	k.Close()
	<-sent
}

// A panic that no handler has ended ends its connection, and no other.
func TestPanicEndsItsConnection(t *testing.T) {
	told := make(chan any, 2)
	s := &Server{
		Handler: func(x *exchange.Exchange) {
			if x.Request.Path == "/panic" {
				panic("outside")
			}
			echo(x)
		},
		Panicked: func(v any) { told <- v },
	}
	s.Limits.Store(tableLimits())
	r := rigOf(t, s)
	other, k := r.dial(), r.dial()
	for range 2 {
		other.send(simple)
		if res, _ := other.answer("GET"); res.StatusCode != 200 {
			t.Errorf("answered %d", res.StatusCode)
		}
		k.send("GET /panic HTTP/1.1\r\nHost: a\r\n\r\n")
		k.expectEnd()
		if v := <-told; v != "outside" {
			t.Errorf("told of %v", v)
		}
		k = r.dial()
	}
}

func TestUpgrade(t *testing.T) {
	const head = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
	k := newRig(t, tableLimits(), func(x *exchange.Exchange) {
		x.Response.Header.Add("Upgrade", x.Request.Upgrade)
		s, err := x.Down.Upgrade(x)
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := io.Copy(s, s); err != nil {
			t.Error(err)
		}
		if err := s.CloseWrite(); err != nil {
			t.Error(err)
		}
		s.Close()
	}).dial()
	k.send(head + "early ")
	k.expect("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\nearly ")
	k.send("late")
	k.expect("late")
	if err := k.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	k.expectEnd()

	declined := newRig(t, tableLimits(), func(x *exchange.Exchange) { reply(x, x.Request.Path) }).dial()
	declined.send(head + "GET /next HTTP/1.1\r\nHost: a\r\n\r\n" + "frame")
	for _, want := range []string{"/", "/next"} {
		if res, body := declined.answer("GET"); res.StatusCode != 200 || body != want {
			t.Fatalf("%d %q", res.StatusCode, body)
		}
	}

	unasked := newRig(t, tableLimits(), func(x *exchange.Exchange) {
		if _, err := x.Down.Upgrade(x); err == nil {
			t.Error("upgraded a request that did not ask for it")
		}
	}).dial()
	unasked.send(simple)
	unasked.expectEnd()
}
