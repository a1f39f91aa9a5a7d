package upstream

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/h1/h1test"
)

const ok = "HTTP/1.1 200 OK\r\n"

func TestAnswersArePassedOn(t *testing.T) {
	long := strings.Repeat("0123456789abcdef", 20_000)
	for _, c := range []struct {
		name, method, answer string
		status               int
		body                 string
		length               int64
		reused               bool
	}{
		{"counted", "GET", ok + "Content-Length: 5\r\n\r\nhello", 200, "hello", 5, true},
		{"empty", "GET", ok + "Content-Length: 0\r\n\r\n", 200, "", 0, true},
		{"long", "GET", ok + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(long), long), 200, long, int64(len(long)), true},
		{"chunked", "GET", ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;a=b\r\n!\r\n0\r\n\r\n", 200, "hello!", -1, true},
		{"long chunk", "GET", ok + fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(long), long), 200, long, -1, true},
		{"until close", "GET", ok + "\r\nhello", 200, "hello", -1, false},
		{"long until close", "GET", ok + "\r\n" + long, 200, long, -1, false},
		{"HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", 5, false},
		{"HTTP/1.0 kept alive", "GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", 5, true},
		{"says that it closes", "GET", ok + "Connection: close\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", 5, false},
		{"HEAD", "HEAD", ok + "Content-Length: 500\r\n\r\n", 200, "", 500, true},
		{"HEAD chunked", "HEAD", ok + "Transfer-Encoding: chunked\r\n\r\n", 200, "", -1, true},
		{"204", "DELETE", "HTTP/1.1 204 No Content\r\n\r\n", 204, "", 0, true},
		{"304", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n", 304, "", 500, true},
		{"no reason", "GET", "HTTP/1.1 404\r\nContent-Length: 2\r\n\r\nno", 404, "no", 2, true},
		{"unknown status", "GET", "HTTP/1.1 599 Odd\r\nContent-Length: 2\r\n\r\nno", 599, "no", 2, true},
		{"large head", "GET", ok + "A: " + strings.Repeat("b", 20_000) + "\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", 5, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newService(t, func(p *peer) {
				for {
					r := p.request()
					if r == nil {
						return
					}
					if r.URL.Path == "/again" {
						p.send(ok + "Content-Length: 5\r\n\r\nagain")
						continue
					}
					p.send(c.answer)
					if !c.reused {
						return
					}
				}
			})
			r := newRig(t, settings(s.url()))
			k := r.dial()
			k.send(c.method + " / HTTP/1.1\r\nHost: a.example\r\n\r\n")
			res, body, err := k.answer(c.method)
			if err != nil || res.StatusCode != c.status || body != c.body {
				t.Fatalf("status %d, body of %d bytes, %v", res.StatusCode, len(body), err)
			}
			if c.status != 304 && c.status != 204 && res.ContentLength != c.length {
				t.Errorf("length %d, want %d", res.ContentLength, c.length)
			}
			if p := <-r.ended; p != nil {
				t.Errorf("problem: %v", p)
			}
			k.send("GET /again HTTP/1.1\r\nHost: a.example\r\n\r\n")
			k.wants(200, "again")
			if n := s.connections(); c.reused != (n == 1) {
				t.Errorf("%d connections were made", n)
			}
			<-r.seen
			if seen := <-r.seen; seen.Reused != c.reused || seen.Attempts != 1 || seen.Name != "test" {
				t.Errorf("recorded %+v", seen)
			}
		})
	}
}

func TestTrailersArePassedOn(t *testing.T) {
	s := newService(t, func(p *peer) {
		r := p.request()
		body, err := io.ReadAll(r.Body)
		if err != nil || string(body) != "ping" || r.Trailer.Get("Sum") != "1" {
			t.Errorf("upstream got %q, %v, %v", body, r.Trailer, err)
		}
		p.send(ok + "Transfer-Encoding: chunked\r\nTrailer: Sum\r\n\r\n4\r\npong\r\n0\r\nSum: 2\r\n\r\n")
	})
	r := newRig(t, settings(s.url()))
	k := r.dial()
	k.send("POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nTrailer: Sum\r\n\r\n4\r\nping\r\n0\r\nSum: 1\r\n\r\n")
	if res := k.wants(200, "pong"); res.Trailer.Get("Sum") != "2" {
		t.Errorf("trailer %v", res.Trailer)
	}
}

func TestMalformedAnswers(t *testing.T) {
	for _, c := range h1test.MalformedAnswers {
		t.Run(c.Name, func(t *testing.T) {
			s := newService(t, func(p *peer) {
				r := p.request()
				if r == nil {
					return
				}
				if r.URL.Path != "/bad" {
					p.send(ok + "Content-Length: 4\r\n\r\ngood")
					return
				}
				p.send(c.Bytes)
				// What comes now must not become anybody's answer.
				if c.Name != "nothing" && !c.InBody {
					p.send(ok + "Content-Length: 4\r\n\r\nevil")
				}
			})
			r := newRigWith(t, settings(s.url()), nil, func(u *Upstream) {
				u.limits.HeaderBytes, u.limits.Headers = 8192, 50
			})
			k := r.dial()
			k.send("GET /bad HTTP/1.1\r\nHost: a.example\r\n\r\n")
			res, body, err := k.answer("GET")
			if c.InBody {
				if res.StatusCode != 502 && err == nil {
					t.Errorf("the cut cannot be seen: %d %q", res.StatusCode, body)
				}
			} else if res.StatusCode != 502 || err != nil || !strings.Contains(body, `"code":"upstream_`) {
				t.Errorf("%d %q, %v", res.StatusCode, body, err)
			}
			if p := <-r.ended; p == nil || p.Side != exchange.SideUpstream {
				t.Errorf("problem %v", p)
			}
			for range 2 {
				k := r.dial()
				k.send("GET /good HTTP/1.1\r\nHost: a.example\r\n\r\n")
				k.wants(200, "good")
			}
		})
	}
}

// What comes after the end of an answer, at once or later, is nobody's answer.
func TestBytesAfterAnAnswerReachNobody(t *testing.T) {
	const evil = ok + "Content-Length: 4\r\n\r\nevil"
	for _, c := range []struct {
		name, method, answer string
		later                bool
	}{
		{"with the answer", "GET", ok + "Content-Length: 4\r\n\r\ngood", false},
		{"later", "GET", ok + "Content-Length: 4\r\n\r\ngood", true},
		{"with chunks", "GET", ok + "Transfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n\r\n", false},
		{"after chunks", "GET", ok + "Transfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n\r\n", true},
		{"after HEAD", "HEAD", ok + "Content-Length: 4\r\n\r\n", true},
		{"with 204", "GET", "HTTP/1.1 204 No Content\r\n\r\n", false},
		{"after 304", "GET", "HTTP/1.1 304 Not Modified\r\n\r\n", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			answered, sent := make(chan struct{}), make(chan struct{})
			s := newService(t, func(p *peer) {
				if p.request() == nil {
					return
				}
				switch {
				case p.number > 1:
					p.send(ok + "Content-Length: 5\r\n\r\nother")
				case c.later:
					p.send(c.answer)
					<-answered
					p.send(evil)
					close(sent)
				default:
					p.send(c.answer + evil)
					close(sent)
				}
				p.request()
			})
			cfg := settings(s.url())
			cfg.Connections.Max = 1
			r := newRig(t, cfg)
			k := r.dial()
			k.send(c.method + " / HTTP/1.1\r\nHost: a.example\r\n\r\n")
			k.answer(c.method)
			<-r.ended
			close(answered)
			<-sent
			other := r.dial()
			other.send(get)
			other.wants(200, "other")
		})
	}
}

// A client that goes away in the middle of its answer leaves a connection on
// which the rest of it may still come.
func TestRestOfAnAnswerReachesNobody(t *testing.T) {
	part := make(chan struct{})
	s := newService(t, func(p *peer) {
		if p.request() == nil {
			return
		}
		if p.number > 1 {
			p.send(ok + "Content-Length: 5\r\n\r\nother")
			return
		}
		p.send(ok + "Content-Length: 100\r\n\r\nfirst")
		<-part
		p.send(ok + "Content-Length: 4\r\n\r\nevil" + strings.Repeat(" ", 100))
		if _, err := p.r.ReadByte(); err == nil {
			t.Error("the connection was used again")
		}
	})
	cfg := settings(s.url())
	cfg.Connections.Max = 1
	r := newRig(t, cfg)
	k := r.dial()
	k.send(get)
	if _, err := io.ReadFull(k.head("GET").Body, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	k.SetLinger(0)
	k.Close()
	if p := <-r.ended; p == nil || p.Status != exchange.StatusClientGone {
		t.Errorf("ended with %v", p)
	}
	close(part)
	other := r.dial()
	other.send(get)
	other.wants(200, "other")
}

// A body that looks like a request is a body to the upstream as well.
func TestSmuggledRequestStaysABody(t *testing.T) {
	inner := "GET /admin HTTP/1.1\r\nHost: a.example\r\n\r\n"
	for _, c := range []struct{ name, head, body string }{
		{"counted", fmt.Sprintf("Content-Length: %d\r\n", len(inner)), inner},
		{"chunked", "Transfer-Encoding: chunked\r\n", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(inner), inner)},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newService(t, func(p *peer) {
				for {
					r := p.request()
					if r == nil {
						return
					}
					if r.URL.Path == "/admin" {
						t.Error("the body became a request")
					}
					body, err := io.ReadAll(r.Body)
					if err != nil {
						t.Error(err)
					}
					p.send(fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s%s", ok, len(body)+len(r.URL.Path), r.URL.Path, body))
				}
			})
			cfg := settings(s.url())
			cfg.Connections.Max = 1
			r := newRig(t, cfg)
			a, b := r.dial(), r.dial()
			a.send("POST /a HTTP/1.1\r\nHost: a.example\r\n" + c.head + "\r\n" + c.body)
			a.wants(200, "/a"+inner)
			<-r.ended
			b.send("GET /b HTTP/1.1\r\nHost: a.example\r\n\r\n")
			b.wants(200, "/b")
			if s.connections() != 1 {
				t.Error("the upstream connection was not shared")
			}
		})
	}
}
