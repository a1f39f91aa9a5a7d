package upstream

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// mirrored sends a copy of a request and returns the request's own exchange.
func (l *lab) mirrored(q request) *exchange.Exchange {
	x := exchange.Get()
	x.Client = &exchange.Client{}
	r := &x.Request
	if r.Method = q.method; r.Method == "" {
		r.Method = "GET"
	}
	r.Authority, r.Path = "shop.example", "/products"
	for i := 0; i < len(q.fields); i += 2 {
		r.Header.Add(q.fields[i], q.fields[i+1])
	}
	if q.body != "" {
		r.Body, r.Length = exchange.Bytes([]byte(q.body)), int64(len(q.body))
	}
	if !l.u.Mirror(x, func(y *exchange.Exchange) { y.Request.Header.Del("X-Token") }) {
		l.t.Fatal(x.Problem)
	}
	return x
}

func TestMirror(t *testing.T) {
	inLab(t, nil, 1, func(l *lab) {
		var body atomic.Value
		l.set(1, func(h *host) {
			h.answer = func(r *http.Request) reply {
				body.Store(r.Method + " " + r.URL.Path + " " + r.Host)
				return reply{after: time.Second, status: 500, body: strings.Repeat("x", 100_000)}
			}
		})
		before := time.Now()
		x := l.mirrored(request{method: "PUT", body: "hello", fields: []string{
			"Authorization", "Bearer x", "cookie", "a=b", "X-API-Key", "k", "X-Token", "t", "Proxy-Authorization", "p", "Accept", "text/plain",
		}})
		if time.Since(before) != 0 {
			t.Error("it was waited for")
		}
		if p, err := x.Request.Body.Next(); string(p) != "hello" || err != nil {
			t.Errorf("the request's own body is %q, %v", p, err)
		}
		if x.Request.Header.Len() != 6 || x.Response.Status != 0 || x.Problem != nil {
			t.Error("the request itself was changed")
		}
		exchange.Put(x) // the copy does not need it
		time.Sleep(2 * time.Second)
		h := l.host(1).last.Load().Header
		if body.Load() != "PUT /products shop.example" || len(h) != 2 || h.Get("Accept") != "text/plain" || h.Get("Content-Length") != "5" {
			t.Errorf("the copy was %v with %v", body.Load(), h)
		}
		if l.u.mirrors.Load() != 0 || l.meter.event(Mirrored) != 1 {
			t.Error("not counted, or not over")
		}
	})
}

func TestMirrorsAreBounded(t *testing.T) {
	inLab(t, nil, 1, func(l *lab) {
		l.set(1, func(h *host) {
			h.answer = func(*http.Request) reply { return reply{after: time.Hour, status: 200} }
		})
		for range 150 {
			exchange.Put(l.mirrored(request{}))
		}
		synctest.Wait()
		if n := l.host(1).asked.Load(); n != maxMirrors {
			t.Errorf("%d copies are under way", n)
		}
		if l.meter.event(MirrorDropped) != 50 {
			t.Error("not counted")
		}
		x := exchange.Get()
		x.Client = &exchange.Client{}
		x.Request.Length = exchange.Unknown
		x.Request.Body = unread{t}
		if !l.u.Mirror(x, nil) {
			t.Error(x.Problem)
		}
		time.Sleep(time.Minute)
		if n := l.u.mirrors.Load(); n != 0 {
			t.Errorf("%d copies never end", n)
		}
	})
}

// unread is a body that must not be read.
type unread struct{ t *testing.T }

func (b unread) Next() ([]byte, error) {
	b.t.Error("a body of unknown length was read")
	return nil, io.EOF
}
func (unread) Close() error { return nil }

// What breaks while it is read for the copy is the client's problem.
func TestMirrorOfABrokenBody(t *testing.T) {
	inLab(t, nil, 1, func(l *lab) {
		x := exchange.Get()
		x.Client = &exchange.Client{}
		x.Request.Method, x.Request.Length, x.Request.Body = "PUT", 10, exchange.Bytes([]byte("short"))
		if l.u.Mirror(x, nil) || x.Problem == nil || x.Problem.Code != "body_incomplete" {
			t.Error(fmt.Sprint(x.Problem))
		}
		if l.u.mirrors.Load() != 0 || l.host(1).asked.Load() != 0 {
			t.Error("a copy is under way")
		}
	})
}
