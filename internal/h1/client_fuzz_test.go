package h1

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"testing"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/h1/h1test"
	"gatehouse.dev/gatehouse/internal/wire"
)

// outcome is all that an upstream's bytes come to.
type outcome struct {
	head, body string
	failed     bool
	reusable   bool
	status     int
}

// answerOf has a client read an answer that comes in pieces of a size.
func answerOf(t *testing.T, s *wire.Sweeper, method string, data []byte, size int) (out outcome) {
	near, far := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer far.Close()
		if _, err := http.ReadRequest(bufio.NewReader(far)); err != nil {
			return
		}
		for len(data) > 0 {
			n, err := far.Write(data[:min(size, len(data))])
			if err != nil {
				return
			}
			data = data[n:]
		}
	}()
	o := new(owner)
	k := NewClient(wire.New(near, s), &ResponseLimits{HeaderBytes: 2048, Headers: 20}, o)
	x := request(t, method, 0, exchange.NoBody)
	err := k.RoundTrip(x, "a.example", false)
	if err == nil && x.Response.Status != 101 {
		out.head = fieldText(&x.Response.Header)
		out.status = x.Response.Status
		if out.body, err = readBodyOf(x.Response.Body); err == nil {
			out.head += fieldText(&x.Response.Trailer)
		}
		x.Response.Body.Close()
	} else {
		k.Close()
	}
	out.failed = err != nil
	if len(o.freed) != 1 {
		t.Fatalf("freed %v", o.freed)
	}
	out.reusable = o.freed[0]
	k.Shut()
	<-done
	return out
}

// The law of answers: how they are cut into pieces makes no difference, one
// that failed leaves no connection behind, and net/http reads them the same
// way or refuses them.
func FuzzAnswer(f *testing.F) {
	for _, a := range h1test.MalformedAnswers {
		f.Add("GET", []byte(a.Bytes))
	}
	for _, a := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.0 200 OK\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
	} {
		f.Add("GET", []byte(a))
		f.Add("HEAD", []byte(a))
	}
	s := wire.NewSweeper()
	f.Cleanup(s.Close)
	f.Fuzz(func(t *testing.T, method string, data []byte) {
		if method != "GET" && method != "HEAD" || len(data) > 4096 {
			return
		}
		whole := answerOf(t, s, method, data, len(data))
		if whole.failed && whole.reusable {
			t.Error("a connection is used again after an answer that failed")
		}
		for _, size := range []int{1, 7} {
			part := answerOf(t, s, method, data, size)
			// What comes after an answer is seen at once or when the
			// connection is next wanted.
			part.reusable = whole.reusable
			if part != whole {
				t.Errorf("in pieces of %d: %+v, else %+v", size, part, whole)
			}
		}
		if whole.failed {
			return
		}
		r := bufio.NewReader(bytes.NewReader(data))
		for {
			res, err := http.ReadResponse(r, &http.Request{Method: method})
			if err != nil {
				return
			}
			if res.StatusCode < 200 {
				continue
			}
			body, err := io.ReadAll(res.Body)
			if err != nil {
				return
			}
			if res.StatusCode != whole.status || string(body) != whole.body {
				t.Errorf("net/http reads %d %q, we %d %q", res.StatusCode, body, whole.status, whole.body)
			}
			return
		}
	})
}
