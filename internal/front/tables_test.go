package front

import (
	"regexp"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/h1/h1test"
)

// httpTarget is an absolute target for a plain connection.
var httpTarget = regexp.MustCompile(`(?i)^([A-Z]+ )http:`)

// plainOnly tells requests that are malformed on a plain connection alone.
func plainOnly(door, bytes string) bool {
	return strings.HasSuffix(door, "-tls") && strings.Contains(bytes, " https://")
}

func TestMalformedRequestsAreRefused(t *testing.T) {
	each(t, func(t *testing.T, door string) {
		r := newRig(t, listenerOf(door), echo)
		for _, c := range h1test.MalformedRequests {
			if plainOnly(door, c.Bytes) {
				continue
			}
			t.Run(c.Name, func(t *testing.T) {
				k := r.dial(t)
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
	})
}

func TestMalformedRequestsAreRefusedBytewise(t *testing.T) {
	each(t, func(t *testing.T, door string) {
		r := newRig(t, listenerOf(door), echo)
		for _, c := range h1test.MalformedRequests {
			if len(c.Bytes) > 500 || plainOnly(door, c.Bytes) {
				continue
			}
			t.Run(c.Name, func(t *testing.T) {
				k := r.dial(t)
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
	})
}

func TestOddRequestsAreTaken(t *testing.T) {
	type seen struct{ method, host, path, query, fields, body, upgrade string }
	each(t, func(t *testing.T, door string) {
		got := make(chan seen, 2)
		r := newRig(t, listenerOf(door), func(x *exchange.Exchange) {
			q := &x.Request
			var fields strings.Builder
			for name, value := range q.Header.All() {
				fields.WriteString(name + ": " + value + "\n")
			}
			s := seen{q.Method, q.Host, q.Path, q.Query, fields.String(), "", q.Upgrade}
			s.body, _ = readBody(x)
			got <- s
			reply(x, "")
		})
		for _, c := range h1test.OddRequests {
			t.Run(c.Name, func(t *testing.T) {
				if strings.HasSuffix(door, "-tls") {
					c.Bytes = httpTarget.ReplaceAllString(c.Bytes, "${1}https:")
				}
				want := seen{c.Method, c.Host, c.Path, c.Query, c.Fields, c.Body, c.Upgrade}
				whole, bytewise := r.dial(t), r.dial(t)
				whole.send(c.Bytes)
				for i := range len(c.Bytes) {
					bytewise.send(c.Bytes[i : i+1])
				}
				for _, k := range []*client{whole, bytewise} {
					if res, body := k.answer(c.Method); res.StatusCode != 200 {
						t.Fatalf("status %d: %s", res.StatusCode, body)
					}
					if s := <-got; s != want {
						t.Errorf("have %+v\nwant %+v", s, want)
					}
				}
			})
		}
	})
}

// net/http refuses a few heads that are in order, before anybody is asked.
func TestRefusalsOfNetHTTPAreReported(t *testing.T) {
	r := newRig(t, listenerOf("std"), echo)
	k := r.dial(t)
	k.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n0\r\n\r\n")
	if res, _ := k.answer("POST"); res.StatusCode != 400 {
		t.Errorf("status %d", res.StatusCode)
	}
	k.expectEnd()
	r.apply() // its connections have ended when they are drained
	r.f.Drain(t.Context())
	if got := r.refusals(); len(got) != 1 || got[0] != "malformed_request" {
		t.Errorf("refused %q", got)
	}
}
