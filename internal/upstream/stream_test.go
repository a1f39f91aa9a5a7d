package upstream

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"testing"

	"gatehouse.dev/gatehouse/internal/exchange"
)

func noise(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(rand.Uint32())
	}
	return p
}

// Bodies of every size and framing arrive as they were sent, both ways.
func TestBodiesArriveWhole(t *testing.T) {
	s := newService(t, func(p *peer) {
		for {
			r := p.request()
			if r == nil {
				return
			}
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			if r.ContentLength < 0 {
				p.send(fmt.Sprintf("%sTransfer-Encoding: chunked\r\n\r\n", ok))
				if len(body) > 0 {
					p.send(fmt.Sprintf("%x\r\n", len(body)))
					p.Write(body)
					p.send("\r\n")
				}
				p.send("0\r\n\r\n")
				continue
			}
			p.send(fmt.Sprintf("%sContent-Length: %d\r\n\r\n", ok, len(body)))
			p.Write(body)
		}
	})
	r := newRig(t, settings(s.url()))
	for _, size := range []int{0, 1, 100, 10_000, 16_384, 40_000, 64 << 10, 64<<10 + 1, 200_000, 3 << 20} {
		for _, chunked := range []bool{false, true} {
			t.Run(fmt.Sprint(size, chunked), func(t *testing.T) {
				body := noise(size)
				k := r.dial()
				for _, pause := range []bool{false, true} {
					go func() {
						head := fmt.Sprintf("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: %d\r\n\r\n", size)
						p := body
						if chunked {
							head = "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n"
							var b bytes.Buffer
							for c := range slicesOf(body, 50_000) {
								fmt.Fprintf(&b, "%x\r\n%s\r\n", len(c), c)
							}
							b.WriteString("0\r\n\r\n")
							p = b.Bytes()
						}
						if pause {
							// The body comes apart from the head, in two pieces.
							k.send(head)
							k.Write(p[:len(p)/2])
							k.Write(p[len(p)/2:])
						} else {
							k.Write(append([]byte(head), p...))
						}
					}()
					_, got, err := k.answer("POST")
					if err != nil || got != string(body) {
						t.Fatalf("%d bytes came back of %d, %v", len(got), len(body), err)
					}
					if p := <-r.ended; p != nil {
						t.Fatal(p)
					}
				}
			})
		}
	}
	if n := s.connections(); n != 1 {
		t.Errorf("%d connections to the upstream", n)
	}
}

func slicesOf(p []byte, n int) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(p) > 0 {
			k := min(n, len(p))
			if !yield(p[:k]) {
				return
			}
			p = p[k:]
		}
	}
}

// A client and a service may talk at the same time.
func TestFullDuplex(t *testing.T) {
	s := newService(t, func(p *peer) {
		r := p.request()
		p.send(ok + "Transfer-Encoding: chunked\r\n\r\n")
		b := make([]byte, 100)
		for {
			n, err := r.Body.Read(b)
			if n > 0 {
				p.send(fmt.Sprintf("%x\r\n%s\r\n", n, b[:n]))
			}
			if err != nil {
				break
			}
		}
		p.send("0\r\n\r\n")
		hello(p)
	})
	r := newRig(t, settings(s.url()))
	k := r.dial()
	k.send("POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n")
	res := k.head("POST")
	for i := range 50 {
		word := fmt.Sprintf("word %02d", i)
		k.send(fmt.Sprintf("%x\r\n%s\r\n", len(word), word))
		got := make([]byte, len(word))
		if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != word {
			t.Fatalf("%q, %v", got, err)
		}
	}
	k.send("0\r\n\r\n")
	if rest, err := io.ReadAll(res.Body); err != nil || len(rest) > 0 {
		t.Fatalf("%q, %v", rest, err)
	}
	<-r.ended
	k = r.dial()
	k.send(get)
	k.wants(200, "hello")
	if s.connections() != 1 {
		t.Error("the upstream connection was not used again")
	}
}

// An answer may come while the client still sends. It is passed on, the rest
// of the request is not, and the connection is not used again.
func TestEarlyAnswer(t *testing.T) {
	for _, framing := range []string{"Content-Length: 10", "Content-Length: 1000000", "Transfer-Encoding: chunked"} {
		t.Run(framing, func(t *testing.T) {
			s := newService(t, func(p *peer) {
				r := p.request()
				if p.number > 1 {
					p.send(ok + "Content-Length: 5\r\n\r\nother")
					return
				}
				if _, err := io.ReadFull(r.Body, make([]byte, 5)); err != nil {
					t.Error(err)
				}
				p.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
				if _, err := io.ReadAll(r.Body); err == nil {
					t.Error("the upstream took the request for complete")
				}
			})
			r := newRig(t, settings(s.url()))
			k := r.dial()
			k.send("POST / HTTP/1.1\r\nHost: a.example\r\n" + framing + "\r\n\r\n")
			if framing[0] == 'T' {
				k.send("5\r\n")
			}
			k.send("hello")
			if res := k.wants(413, "big"); !res.Close {
				t.Error("the client is not told to end its connection")
			}
			if p := <-r.ended; p != nil {
				t.Errorf("ended with %v", p)
			}
			other := r.dial()
			other.send(get)
			other.wants(200, "other")
		})
	}
}

// A body that breaks off is the client's fault, and the upstream sees it cut.
func TestRequestBodyBreaksOff(t *testing.T) {
	for _, c := range []struct {
		name, request string
		status        int
		code          string
	}{
		{"half closed", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 10\r\n\r\nhello", 400, "body_cut"},
		{"long, half closed", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1000000\r\n\r\nhello", 400, "body_cut"},
		{"bad chunk", "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n", 400, "malformed_body"},
	} {
		t.Run(c.name, func(t *testing.T) {
			seen := make(chan error, 1)
			s := newService(t, func(p *peer) {
				_, err := io.ReadAll(p.request().Body)
				seen <- err
			})
			r := newRig(t, settings(s.url()))
			k := r.dial()
			k.send(c.request)
			k.CloseWrite()
			k.fails(c.status, c.code)
			if err := <-seen; err == nil {
				t.Error("the upstream took the request for complete")
			}
			if p := <-r.ended; p.Side != exchange.SideClient {
				t.Errorf("problem %v", p)
			}
		})
	}
}

func TestInterimAnswers(t *testing.T) {
	s := newService(t, func(p *peer) {
		p.request()
		p.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n")
		p.send("HTTP/1.1 100 Continue\r\n\r\n")
		p.send(ok + "Content-Length: 5\r\n\r\nhello")
	})
	r := newRig(t, settings(s.url()))
	k := r.dial()
	k.send(get)
	if res := k.head("GET"); res.StatusCode != 103 || res.Header.Get("Link") == "" {
		t.Errorf("%d %v", res.StatusCode, res.Header)
	}
	if res := k.head("GET"); res.StatusCode != 102 {
		t.Errorf("%d", res.StatusCode)
	}
	if res := k.wants(200, "hello"); res.Header.Get("Link") != "" { // nobody asked for 100
		t.Errorf("fields of an interim answer are in the final one: %v", res.Header)
	}
}

const expecting = "POST / HTTP/1.1\r\nHost: a.example\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"

func TestExpectIsPassedOn(t *testing.T) {
	s := newService(t, func(p *peer) {
		r := p.request()
		if r.Header.Get("Expect") != "100-continue" {
			t.Errorf("upstream saw %v", r.Header)
		}
		p.send("HTTP/1.1 100 Continue\r\n\r\n")
		body, err := io.ReadAll(r.Body)
		p.send(fmt.Sprintf("%sContent-Length: 12\r\n\r\n%s, %v", ok, body, err))
		hello(p)
	})
	r := newRig(t, settings(s.url()))
	k := r.dial()
	k.send(expecting)
	if res := k.head("POST"); res.StatusCode != 100 {
		t.Fatal(res.StatusCode)
	}
	k.send("hello")
	k.wants(200, "hello, <nil>")
	<-r.ended
	k.send(get)
	k.wants(200, "hello")
	if s.connections() != 1 {
		t.Error("the connection was not used again")
	}
}

// A service that knows nothing of 100 gets the body after a second.
func TestExpectThatIsNotAnswered(t *testing.T) {
	t.Parallel()
	s := newService(t, func(p *peer) {
		body, err := io.ReadAll(p.request().Body)
		p.send(fmt.Sprintf("%sContent-Length: 12\r\n\r\n%s, %v", ok, body, err))
	})
	r := newRig(t, settings(s.url()))
	k := r.dial()
	k.send(expecting)
	if res := k.head("POST"); res.StatusCode != 100 {
		t.Fatal(res.StatusCode)
	}
	k.send("hello")
	k.wants(200, "hello, <nil>")
}

// A final answer instead of 100 goes to the client; the connection, on which
// the upstream may still wait for the body, is not used again.
func TestExpectThatIsDeclined(t *testing.T) {
	s := newService(t, func(p *peer) {
		if p.request().Method == "GET" {
			p.send(ok + "Content-Length: 5\r\n\r\nother")
			return
		}
		p.send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno")
		if _, err := p.r.ReadByte(); err != io.EOF {
			t.Errorf("something more was sent, or %v", err)
		}
	})
	r := newRig(t, settings(s.url()))
	k := r.dial()
	k.send(expecting)
	if res := k.wants(417, "no"); !res.Close {
		t.Error("the client may send the body, or not: its connection must end")
	}
	<-r.ended
	k = r.dial()
	k.send(get)
	k.wants(200, "other")
}

// What a service sends bit by bit reaches the client bit by bit.
func TestEventsAreNotHeldBack(t *testing.T) {
	next := make(chan struct{})
	s := newService(t, func(p *peer) {
		p.request()
		p.send(ok + "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
		for i := range 5 {
			<-next
			// The beginning of the next chunk's size line must not hold back
			// this one.
			p.send(fmt.Sprintf("8\r\nevent %d\n\r\n0", i))
		}
		<-next
		p.send("\r\n\r\n")
	})
	r := newRig(t, settings(s.url()))
	k := r.dial()
	k.send(get)
	res := k.head("GET")
	for i := range 5 {
		next <- struct{}{}
		got := make([]byte, 8)
		if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != fmt.Sprintf("event %d\n", i) {
			t.Fatalf("%q, %v", got, err)
		}
	}
	next <- struct{}{}
	if rest, err := io.ReadAll(res.Body); err != nil || len(rest) > 0 {
		t.Fatalf("%q, %v", rest, err)
	}
}

// A client that goes away takes the work of the upstream with it.
func TestClientGone(t *testing.T) {
	for _, c := range []struct {
		name, request string
		answer        string // what the upstream sends before the client goes
	}{
		{"before the answer", get, ""},
		{"in the answer", get, ok + "Content-Length: 1000\r\n\r\nhello"},
		{"in a long answer", get, ok + "Content-Length: 1000000\r\n\r\nhello"},
		{"in a chunked answer", get, ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"},
		{"in the request", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1000\r\n\r\nhello", ""},
		{"in a long request", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1000000\r\n\r\nhello", ""},
		{"in both", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1000\r\n\r\nhello", ok + "Content-Length: 1000\r\n\r\nhello"},
		{"waiting for 100", expecting, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			arrived, gone := make(chan struct{}), make(chan struct{})
			s := newService(t, func(p *peer) {
				r := p.request()
				if r.ContentLength > 5 {
					io.ReadFull(r.Body, make([]byte, 5))
				}
				p.send(c.answer)
				close(arrived)
				io.Copy(io.Discard, p.r)
				close(gone)
			})
			r := newRig(t, settings(s.url()))
			k := r.dial()
			k.send(c.request)
			<-arrived
			if c.answer != "" {
				if _, err := io.ReadFull(k.head("GET").Body, make([]byte, 5)); err != nil {
					t.Fatal(err)
				}
			}
			k.SetLinger(0)
			k.Close()
			<-gone
			if p := <-r.ended; p == nil || p.Status != exchange.StatusClientGone || p.Side != exchange.SideClient {
				t.Errorf("problem %v", p)
			}
		})
	}
}

// The head that goes out is the exchange's request, written anew.
func TestRequestAsItIsSent(t *testing.T) {
	seen := make(chan *http.Request, 1)
	s := newService(t, func(p *peer) {
		for {
			r := p.request()
			if r == nil {
				return
			}
			io.Copy(io.Discard, r.Body)
			seen <- r
			p.send(ok + "Content-Length: 0\r\n\r\n")
		}
	})
	r := newRig(t, settings(s.url()))
	k := r.dial()
	k.send("POST /a/b?c=d HTTP/1.1\r\nHost: a.example\r\nX-One: 1\r\nX-Two: 2\r\nX-One: 3\r\nContent-Length: 3\r\n\r\nabc")
	k.wants(200, "")
	q := <-seen
	if q.Method != "POST" || q.RequestURI != "/a/b?c=d" || q.ContentLength != 3 || len(q.TransferEncoding) > 0 ||
		fmt.Sprint(q.Header["X-One"], q.Header["X-Two"]) != "[1 3] [2]" {
		t.Errorf("%+v", q)
	}
}
