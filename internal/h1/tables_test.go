package h1

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/h1/h1test"
)

func TestMalformedRequestsAreRefused(t *testing.T) {
	seen := make(chan *exchange.Problem, 1)
	s := &Server{Handler: echo, Refused: func(x *exchange.Exchange) { seen <- x.Problem }}
	s.Limits.Store(tableLimits())
	r := rigOf(t, s)
	for _, c := range h1test.MalformedRequests {
		t.Run(c.Name, func(t *testing.T) {
			for len(seen) > 0 {
				<-seen
			}
			k := r.dial()
			k.t = t
			// What follows must not be taken for another request.
			k.send(c.Bytes + simple)
			res, body := k.answer("")
			if res.StatusCode != c.Status {
				t.Errorf("status %d, want %d", res.StatusCode, c.Status)
			}
			if !res.Close {
				t.Error("answer does not say that the connection ends")
			}
			if !strings.Contains(body, `"code":`) || strings.Contains(body, "malformed message") {
				t.Errorf("body %q", body)
			}
			k.expectEnd()
			if res.StatusCode == 405 && res.Header.Get("Allow") == "" {
				t.Error("405 without Allow")
			}
		})
	}
}

func TestMalformedRequestsAreRefusedBytewise(t *testing.T) {
	r := newRig(t, tableLimits(), echo)
	for _, c := range h1test.MalformedRequests {
		if len(c.Bytes) > 500 {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			k := r.dial()
			k.t = t
			for i := range len(c.Bytes) {
				k.send(c.Bytes[i : i+1])
			}
			k.send(simple)
			if res, _ := k.answer(""); res.StatusCode != c.Status {
				t.Errorf("status %d, want %d", res.StatusCode, c.Status)
			}
			k.expectEnd()
		})
	}
}

// The table says which requests net/http takes, so that a test of an engine
// that is built on it can tell what to expect. Here it is kept true.
func TestTableKnowsNetHTTP(t *testing.T) {
	taken := make(chan bool, 1)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		taken <- err == nil
	}))
	s.Config.MaxHeaderBytes = 16 << 10
	s.Start()
	defer s.Close()
	r := &rig{t: t, address: s.Listener.Addr().String()}
	for _, c := range h1test.MalformedRequests {
		k := r.dial()
		k.send(c.Bytes)
		_ = k.CloseWrite() // fails when the server has closed already
		std := false
		res, err := http.ReadResponse(k.r, nil)
		if err == nil && res.StatusCode < 300 || len(taken) > 0 {
			std = <-taken
		}
		if std != c.Std {
			t.Errorf("%s: net/http takes it: %v", c.Name, std)
		}
		k.Close()
	}
}

func TestOddRequestsAreTaken(t *testing.T) {
	type seen struct{ method, host, path, query, fields, body, upgrade string }
	got := make(chan seen, 1)
	r := newRig(t, tableLimits(), func(x *exchange.Exchange) {
		q := &x.Request
		s := seen{q.Method, q.Host, q.Path, q.Query, fieldText(&q.Header), "", q.Upgrade}
		s.body, _ = readBody(x)
		got <- s
		reply(x, "")
	})
	for _, c := range h1test.OddRequests {
		t.Run(c.Name, func(t *testing.T) {
			want := seen{c.Method, c.Host, c.Path, c.Query, c.Fields, c.Body, c.Upgrade}
			whole, bytewise := r.dial(), r.dial()
			whole.t, bytewise.t = t, t
			whole.send(c.Bytes)
			if res, body := whole.answer(c.Method); res.StatusCode != 200 {
				t.Fatalf("status %d: %s", res.StatusCode, body)
			}
			if s := <-got; s != want {
				t.Errorf("have %+v\nwant %+v", s, want)
			}
			for i := range len(c.Bytes) {
				bytewise.send(c.Bytes[i : i+1])
			}
			if res, body := bytewise.answer(c.Method); res.StatusCode != 200 {
				t.Fatalf("status %d: %s", res.StatusCode, body)
			}
			if s := <-got; s != want {
				t.Errorf("byte by byte: have %+v\nwant %+v", s, want)
			}
		})
	}
}

// Answers are read by the parser alone here; what becomes of the connection is
// tested where connections to upstreams are.
func TestMalformedAnswersAreRefused(t *testing.T) {
	for _, c := range h1test.MalformedAnswers {
		t.Run(c.Name, func(t *testing.T) {
			err := readAnswer(c.Bytes)
			if err == nil {
				t.Fatal("taken")
			}
			t.Log(err)
		})
	}
}

// readAnswer reads an answer as a client would, without a connection.
func readAnswer(s string) error {
	for interim := 0; ; interim++ {
		size, err := FindHead([]byte(s), 0)
		switch {
		case err != nil:
			return err
		case size == 0 || size > 8192:
			return io.ErrUnexpectedEOF
		}
		var r exchange.Response
		f, _, err := ParseResponse([]byte(s[:size]), &r, "GET", 50)
		if err != nil {
			return err
		}
		s = s[size:]
		switch {
		case r.Status == 101:
			return fmt.Errorf("unasked 101")
		case r.Status < 200 && interim > 100:
			return fmt.Errorf("too many interim answers")
		case r.Status < 200:
			continue
		}
		return readAnswerBody(s, f)
	}
}

func readAnswerBody(s string, f Framing) error {
	switch f {
	case UntilClose:
		return nil
	case Chunked:
		return decodeAll(s)
	}
	if int64(len(s)) < int64(f) {
		return io.ErrUnexpectedEOF
	}
	return nil
}

func decodeAll(s string) error {
	var t exchange.Header
	d := ChunkedBody{MaxTrailers: 50}
	for {
		_, n, err := d.Decode([]byte(s), &t)
		s = s[n:]
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		case n == 0:
			return io.ErrUnexpectedEOF
		}
	}
}

func TestOddAnswersAreTaken(t *testing.T) {
	for _, c := range []struct {
		head, method string
		status       int
		framing      Framing
		length       int64
		closes       bool
	}{
		{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "GET", 200, 5, 5, false},
		{"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "GET", 200, 0, 0, false},
		{"HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\n", "GET", 200, 5, 5, false},
		{"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\n", "GET", 200, 5, 5, false},
		{"HTTP/1.1 299 \u00c4h: \tna ja\r\nContent-Length: 5\r\n\r\n", "GET", 299, 5, 5, false},
		{"HTTP/1.1 200 OK\r\n\r\n", "GET", 200, UntilClose, exchange.Unknown, true},
		{"HTTP/1.0 200 OK\r\n\r\n", "GET", 200, UntilClose, exchange.Unknown, true},
		{"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", "GET", 200, 5, 5, true},
		{"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\n", "GET", 200, 5, 5, false},
		{"HTTP/1.0 200 OK\r\nConnection: keep-alive, close\r\nContent-Length: 5\r\n\r\n", "GET", 200, 5, 5, true},
		{"HTTP/1.1 200 OK\r\nConnection: a, Close\r\nContent-Length: 5\r\n\r\n", "GET", 200, 5, 5, true},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", "GET", 200, Chunked, exchange.Unknown, false},
		{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HEAD", 200, 0, 5, false},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HEAD", 200, 0, exchange.Unknown, false},
		{"HTTP/1.1 200 OK\r\n\r\n", "HEAD", 200, 0, exchange.Unknown, false},
		{"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "GET", 304, 0, 5, false},
		{"HTTP/1.1 304 Not Modified\r\n\r\n", "GET", 304, 0, exchange.Unknown, false},
		{"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", "GET", 304, 0, exchange.Unknown, false},
		{"HTTP/1.1 204 No Content\r\n\r\n", "GET", 204, 0, 0, false},
		{"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", "GET", 204, 0, 0, false},
		{"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", "GET", 103, 0, 0, false},
		{"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", "GET", 101, 0, 0, false},
	} {
		if size, err := FindHead([]byte(c.head), 0); size != len(c.head) || err != nil {
			t.Errorf("%q: found %d, %v", c.head, size, err)
			continue
		}
		var r exchange.Response
		f, closes, err := ParseResponse([]byte(c.head), &r, c.method, 50)
		if err != nil || r.Status != c.status || f != c.framing || r.Length != c.length || closes != c.closes {
			t.Errorf("%q for %s: %d, framing %d, length %d, closes %v, %v", c.head, c.method, r.Status, f, r.Length, closes, err)
		}
		if r.Header.Has(exchange.ContentLength) || r.Header.Has(exchange.TransferEncoding) {
			t.Errorf("%q: framing fields are in the header", c.head)
		}
		if _, err := http.ReadResponse(bufio.NewReader(strings.NewReader(c.head)), nil); err != nil {
			t.Errorf("%q: net/http: %v", c.head, err)
		}
	}
}
