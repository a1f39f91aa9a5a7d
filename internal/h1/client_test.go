package h1

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/wire"
)

// owner takes note of what becomes of its connection.
type owner struct{ freed []bool }

func (o *owner) Free(reusable bool) { o.freed = append(o.freed, reusable) }

// interims is a Downstream that only takes interim answers.
type interims struct {
	exchange.Downstream
	got []int
}

func (i *interims) Inform(status int, _ *exchange.Header) error {
	i.got = append(i.got, status)
	return nil
}

// newClient returns a client whose other end is served by a function.
func newClient(t *testing.T, serve func(nc net.Conn, r *bufio.Reader)) (*Client, *owner) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		serve(nc, bufio.NewReader(nc))
	}()
	s := wire.NewSweeper()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	o := new(owner)
	c := NewClient(wire.New(nc, s), &ResponseLimits{HeaderBytes: 8192, Headers: 50, FirstByte: time.Minute}, o)
	t.Cleanup(func() {
		c.Shut()
		ln.Close()
		<-done
		s.Close()
	})
	return c, o
}

// request returns an exchange with a request.
func request(t *testing.T, method string, length int64, body exchange.Body) *exchange.Exchange {
	x := exchange.Get()
	t.Cleanup(func() { exchange.Put(x) })
	x.Down = new(interims)
	r := &x.Request
	r.Method, r.Path, r.Authority, r.Length, r.Body = method, "/", "a.example", length, body
	return x
}

// answering answers every request with the same bytes.
func answering(answer string) func(net.Conn, *bufio.Reader) {
	return func(nc net.Conn, r *bufio.Reader) {
		for {
			q, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if _, err := io.Copy(io.Discard, q.Body); err != nil {
				return
			}
			if _, err := io.WriteString(nc, answer); err != nil {
				return
			}
		}
	}
}

// pieces is a body of given pieces that cannot tell what it has.
type pieces struct {
	list   []string
	closed bool
	panics bool
}

func (p *pieces) Next() ([]byte, error) {
	if p.panics {
		panic("a policy has a fault")
	}
	if len(p.list) == 0 {
		return nil, io.EOF
	}
	s := p.list[0]
	p.list = p.list[1:]
	return []byte(s), nil
}

func (p *pieces) Close() error { p.closed = true; return nil }

func TestRequestBodyMustHaveItsLength(t *testing.T) {
	for _, c := range []struct {
		name   string
		length int64
		body   exchange.Body
		fault  bool
	}{
		{"in memory", 5, exchange.Bytes([]byte("hello")), false},
		{"in pieces", 5, &pieces{list: []string{"he", "llo"}}, false},
		{"unknown", exchange.Unknown, &pieces{list: []string{"he", "llo"}}, false},
		{"unknown in memory", exchange.Unknown, exchange.Bytes([]byte("hello")), false},
		{"too long", 4, exchange.Bytes([]byte("hello")), true},
		{"too short", 6, exchange.Bytes([]byte("hello")), true},
		{"pieces too long", 4, &pieces{list: []string{"he", "llo"}}, true},
		{"pieces too short", 6, &pieces{list: []string{"he", "llo"}}, true},
		{"none at all", 6, exchange.NoBody, true},
		{"panic", 6, &pieces{panics: true}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			k, o := newClient(t, answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
			x := request(t, "POST", c.length, c.body)
			err := k.RoundTrip(x, "a.example", false)
			var own *RequestError
			if c.fault != errors.As(err, &own) || !c.fault && err != nil {
				t.Fatal(err)
			}
			if c.fault {
				if k.Unsent(err) {
					t.Error("it may not be sent again")
				}
				k.Close()
			} else if err := x.Response.Body.Close(); err != nil {
				t.Error(err)
			}
			if len(o.freed) != 1 || o.freed[0] == c.fault {
				t.Errorf("freed %v", o.freed)
			}
		})
	}
}

// Whether a connection can be used again when its answer was not read to its
// end.
func TestGivenUpAnswers(t *testing.T) {
	for _, c := range []struct {
		name, method, answer string
		reusable             bool
	}{
		{"the rest is there", "GET", "Content-Length: 5\r\n\r\nhello", true},
		{"the rest may not come", "GET", "Content-Length: 6\r\n\r\nhello", false},
		{"something comes after it", "GET", "Content-Length: 4\r\n\r\nhello", false},
		{"chunks", "GET", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", false},
		{"until close", "GET", "\r\nhello", false},
		{"says that it closes", "GET", "Connection: close\r\nContent-Length: 5\r\n\r\nhello", false},
		{"no body", "GET", "Content-Length: 0\r\n\r\n", true},
		{"HEAD", "HEAD", "Content-Length: 5\r\n\r\n", true},
		{"HEAD with a body", "HEAD", "Content-Length: 5\r\n\r\nhello", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			k, o := newClient(t, answering("HTTP/1.1 200 OK\r\n"+c.answer))
			x := request(t, c.method, 0, exchange.NoBody)
			if err := k.RoundTrip(x, "a.example", false); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := x.Response.Body.Close(); err != nil {
					t.Error(err)
				}
			}
			if len(o.freed) != 1 || o.freed[0] != c.reusable {
				t.Errorf("freed %v", o.freed)
			}
		})
	}
}

func TestClientIsUsedAgain(t *testing.T) {
	k, o := newClient(t, answering("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"))
	for _, body := range []exchange.Body{exchange.NoBody, &pieces{list: []string{"12", "345"}}, exchange.Bytes([]byte("12345")), &pieces{list: []string{"12345"}}} {
		length := int64(5)
		if body == exchange.NoBody {
			length = 0
		}
		x := request(t, "POST", length, body)
		if err := k.RoundTrip(x, "b.example", false); err != nil {
			t.Fatal(err)
		}
		if got, err := readBodyOf(x.Response.Body); err != nil || got != "hello" {
			t.Fatalf("%q, %v", got, err)
		}
		if x.Response.Body.Close(); !k.Alive() {
			t.Fatal("the connection is not alive")
		}
		if got := x.Down.(*interims).got; len(got) != 1 || got[0] != 103 {
			t.Errorf("interim answers %v", got)
		}
		if x.Request.Authority != "a.example" || x.Request.Lent {
			t.Errorf("request was changed: %+v", x.Request)
		}
		if x.Times.Sent == 0 || x.Times.FirstByte < x.Times.Sent {
			t.Errorf("times %+v", x.Times)
		}
	}
	if len(o.freed) != 4 || !o.freed[3] {
		t.Errorf("freed %v", o.freed)
	}
}

func readBodyOf(b exchange.Body) (string, error) {
	var all strings.Builder
	for {
		p, err := b.Next()
		all.Write(p)
		if err == io.EOF {
			return all.String(), nil
		}
		if err != nil {
			return all.String(), err
		}
	}
}

// A connection that ends before a byte of the answer leaves the request as it
// was, where that can be.
func TestUnsent(t *testing.T) {
	for _, c := range []struct {
		name   string
		length int64
		body   exchange.Body
		answer string
		unsent bool
	}{
		{"no body", 0, exchange.NoBody, "", true},
		{"body in memory", 5, exchange.Bytes([]byte("hello")), "", true},
		{"body in pieces", 5, &pieces{list: []string{"he", "llo"}}, "", false},
		{"half an answer", 0, exchange.NoBody, "HTTP/1.1 2", false},
		{"an interim answer", 0, exchange.NoBody, "HTTP/1.1 103 Early Hints\r\n\r\n", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			k, _ := newClient(t, func(nc net.Conn, r *bufio.Reader) {
				if q, err := http.ReadRequest(r); err == nil {
					io.Copy(io.Discard, q.Body)
				}
				io.WriteString(nc, c.answer)
			})
			x := request(t, "PUT", c.length, c.body)
			err := k.RoundTrip(x, "a.example", false)
			if !errors.Is(err, ErrNoAnswer) || k.Unsent(err) != c.unsent {
				t.Fatal(err)
			}
			k.Close()
			if c.unsent && c.length > 0 {
				if got, err := readBodyOf(x.Request.Body); got != "hello" || err != nil {
					t.Errorf("the body that is left is %q, %v", got, err)
				}
			}
		})
	}
}

// What an exchange waits for ends when it is cancelled, and it does not begin
// when it was.
func TestCanceledRoundTrip(t *testing.T) {
	arrived := make(chan struct{})
	k, o := newClient(t, func(_ net.Conn, r *bufio.Reader) {
		http.ReadRequest(r)
		close(arrived)
		r.ReadByte()
	})
	x := request(t, "GET", 0, exchange.NoBody)
	go func() {
		<-arrived
		x.Cancel(exchange.ErrClientGone)
	}()
	for range 2 {
		if err := k.RoundTrip(x, "a.example", false); !errors.Is(err, exchange.ErrClientGone) {
			t.Fatal(err)
		}
		k.Close()
	}
	if len(o.freed) != 2 || o.freed[0] || o.freed[1] {
		t.Errorf("freed %v", o.freed)
	}
}

// The exchange says when its answer is due, as long as the upstream is at it.
func TestDue(t *testing.T) {
	for _, c := range []struct {
		name, answer string
		limit        time.Duration
		due, failed  bool
	}{
		{name: "no limit", answer: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"},
		{name: "limit", limit: time.Minute, due: true, answer: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"},
		{name: "no answer", limit: time.Minute, failed: true, answer: "HTTP/9 200 OK\r\n\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cl, _ := newClient(t, answering(c.answer))
			cl.limits.Request = c.limit
			x := request(t, "GET", 0, exchange.NoBody)
			before := exchange.Now()
			err := cl.RoundTrip(x, "a.example", false)
			if failed := err != nil; failed != c.failed {
				t.Fatal(err)
			}
			if !c.failed {
				if due := x.Times.Due != 0; due != c.due || due && x.Times.Due < before+int64(c.limit) {
					t.Errorf("due %d, began at %d", x.Times.Due, before)
				}
				x.Response.Body.Close()
			} else {
				cl.Close()
			}
			if x.Times.Due != 0 {
				t.Error("due after the end")
			}
		})
	}
}
