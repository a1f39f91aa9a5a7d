package front

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/exchange"
)

func TestUpgrade(t *testing.T) {
	const ask = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
	each(t, func(t *testing.T, door string) {
		r := newRig(t, listenerOf(door), func(x *exchange.Exchange) {
			if x.Request.Upgrade != "echo" {
				reply(x, "none")
				return
			}
			x.Response.Status = 101
			x.Response.Header.Add("Upgrade", "echo")
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
		})
		k := r.dial(t)
		k.send(simple)
		k.expect(200, "none")
		k.send(ask + "early\n: no head\r\n\r\n")
		res := k.head("GET")
		if res.StatusCode != 101 || res.Header.Get("Upgrade") != "echo" || !strings.EqualFold(res.Header.Get("Connection"), "upgrade") {
			t.Fatalf("answer %d %v", res.StatusCode, res.Header)
		}
		k.send("late\n")
		k.closeWrite()
		if all, err := io.ReadAll(k.r); string(all) != "early\n: no head\r\n\r\nlate\n" || err != nil {
			t.Errorf("%q, %v", all, err)
		}
		// Declined, and what follows is a request like others.
		k = r.dial(t)
		k.send(strings.Replace(ask, "echo", "other", 1) + simple)
		k.expect(200, "none")
		k.expect(200, "none")
	})
}

func TestUnaskedUpgradeIsRefused(t *testing.T) {
	each(t, func(t *testing.T, door string) {
		k := newRig(t, listenerOf(door), func(x *exchange.Exchange) {
			x.Response.Status = 101
			if _, err := x.Down.Upgrade(x); err == nil {
				t.Error("upgraded")
			}
		}).dial(t)
		k.send(simple)
		if res, err := http.ReadResponse(k.r, nil); err == nil {
			t.Errorf("answer %d", res.StatusCode)
		}
	})
}

func TestFieldsOfAnswers(t *testing.T) {
	each(t, func(t *testing.T, door string) {
		k := newRig(t, listenerOf(door), func(x *exchange.Exchange) {
			h := &x.Response.Header
			x.Response.Status = 200
			if x.Request.Path == "/local" {
				x.Response.SetBody([]byte("<html>"))
			} else {
				h.Add("Server", "service")
				h.Add("Date", "Mon, 01 Jan 2024 00:00:00 GMT")
				x.Response.Body, x.Response.Length = exchange.Bytes([]byte("<html>")), 6
			}
			h.Add("X-Twice", "1")
			h.Add("x-twice", "2\r\nSplit: yes")
			h.Add("Bad Name", "1")
			h.Add("Connection", "keep-alive, x-twice")
			h.Add("Keep-Alive", "timeout=5")
			h.Add("Transfer-Encoding", "gzip")
			h.Add("Content-Length", "99")
			finish(x)
		}).dial(t)
		k.send("GET /local HTTP/1.1\r\nHost: a\r\n\r\n")
		res := k.expect(200, "<html>")
		if _, err := http.ParseTime(res.Header.Get("Date")); err != nil || res.Header.Get("Server") != "gatehouse" {
			t.Errorf("fields %v", res.Header)
		}
		for _, name := range []string{"Split", "Bad Name", "Connection", "Keep-Alive", "Content-Type"} {
			if v, ok := res.Header[name]; ok {
				t.Errorf("%s: %q", name, v)
			}
		}
		if v := res.Header["X-Twice"]; len(v) != 2 || v[0] != "1" || !strings.HasPrefix(v[1], "2 ") {
			t.Errorf("X-Twice: %q", v)
		}
		k.send(simple)
		res = k.expect(200, "<html>")
		if res.Header.Get("Date") != "Mon, 01 Jan 2024 00:00:00 GMT" || res.Header.Get("Server") != "service" {
			t.Errorf("fields %v", res.Header)
		}
	})
}
