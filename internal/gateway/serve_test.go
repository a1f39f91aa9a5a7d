package gateway_test

import (
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/gateway"
	"gatehouse.dev/gatehouse/internal/observe"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

// one is a configuration with three probes on one route; b is as it is told.
func one(b string) string {
	return `
routes:
  - name: one
    match: /one
    policies:
      - a: { at: edge }
      - b: { at: admit` + b + ` }
      - c: { at: report }
    upstream: http://up
`
}

// The steps of an exchange run in the order of the plan, response steps in
// reverse, and only those of policies that it reached; done steps of stage
// report run in any case.
func TestSteps(t *testing.T) {
	for _, c := range []struct {
		b      string // settings of the policy in the middle
		status int
		steps  string
		errors int // that are logged
		code   string
	}{
		{"", 200, "a? b? c? c=200 b=200 a=200 a! b! c!", 0, ""},
		{", do: stop", 202, "a? b? b=202 a=202 a! b! c!", 0, ""},
		{", do: fail", 418, "a? b? b=418 a=418 a! b! c!", 0, "teapot"},
		{", do: stop-empty", 500, "a? b? b=500 a=500 a! b! c!", 0, "internal_error"},
		{", do: panic-request", 500, "a? b? b=500 a=500 a! b! c!", 1, "internal_error"},
		{", do: panic-response", 500, "a? b? c? c=200 b=200 a=500 a! b! c!", 1, "internal_error"},
		{", do: fail-response", 418, "a? b? c? c=200 b=200 a=418 a! b! c!", 0, "teapot"},
		{", do: panic-done", 200, "a? b? c? c=200 b=200 a=200 a! b! c!", 1, ""},
		{", do: [panic-request, panic-response, panic-done]", 500, "a? b? b=500 a=500 a! b! c!", 3, "internal_error"},
	} {
		r, tr := newRig(t, one(c.b))
		a := r.Do(policytest.Request{Target: "/one"})
		if a.Status != c.status || !a.Finished || a.Aborted {
			t.Errorf("%s: status %d, want %d; finished %v", c.b, a.Status, c.status, a.Finished)
		}
		if steps := tr.take(); steps != c.steps {
			t.Errorf("%s: steps\n%s, want\n%s", c.b, steps, c.steps)
		}
		if list := r.Errors(); len(list) != c.errors {
			t.Errorf("%s: %d errors were logged: %q", c.b, len(list), list)
		}
		if code := codeOf(a.Problem); code != c.code {
			t.Errorf("%s: problem %q, want %q", c.b, code, c.code)
		}
		if c.code != "" && !strings.Contains(a.Body, `"code":"`+c.code+`"`) {
			t.Errorf("%s: the client was told %s", c.b, a.Body)
		}
		if strings.Contains(a.Body, "panic") {
			t.Errorf("%s: the client was told of internals: %s", c.b, a.Body)
		}
	}
}

func codeOf(p *exchange.Problem) string {
	if p == nil {
		return ""
	}
	return p.Code
}

// Requests that no route takes run the policies of all routes.
func TestUnmatched(t *testing.T) {
	r, tr := newRig(t, `
policies: [ a: {}, c: { at: report } ]
routes:
  - match: GET /one
    policies: [ b: {} ]
    respond: {}
`)
	for _, c := range []struct {
		method, target string
		status         int
	}{{"GET", "/two", 404}, {"PUT", "/one", 405}, {"GET", "/%", 400}, {"OPTIONS", "*", 204}} {
		a := r.Do(policytest.Request{Method: c.method, Target: c.target})
		if a.Status != c.status || a.Route != "none" {
			t.Errorf("%s %s: status %d of route %q", c.method, c.target, a.Status, a.Route)
		}
		if steps := tr.take(); !strings.HasPrefix(steps, "a? c? c=") || !strings.HasSuffix(steps, "a! c!") {
			t.Errorf("%s %s: steps %s", c.method, c.target, steps)
		}
	}
}

// Before the first configuration there is nothing to serve.
func TestNotConfigured(t *testing.T) {
	g := gateway.New(gateway.Deps{Log: slog.New(slog.DiscardHandler), Metrics: observe.NewMetrics(config.Metrics{MaxRoutes: 10})})
	defer g.Close()
	x := exchange.Get()
	defer exchange.Put(x)
	var a policytest.Answer
	x.Client, x.Down, x.Request.RawPath = &exchange.Client{}, &a, "/"
	g.Serve(x)
	if x.Response.Status != 503 || a.Header.Known(exchange.RetryAfter) != "1" || x.Route.Name != "none" || x.Route.Index != -1 {
		t.Errorf("status %d, route %q, answer %v", x.Response.Status, x.Route.Name, &a)
	}
}

// What a protocol refused by itself is reported, by the policies of stage
// report alone.
func TestRefused(t *testing.T) {
	r, tr := newRig(t, "policies: [ a: {}, c: { at: report } ]\nroutes: []\n")
	x := exchange.Get()
	defer exchange.Put(x)
	x.Client = r.DefaultClient()
	x.Fail(&teapot)
	x.Render()
	r.Refused(x)
	if steps := tr.take(); steps != "c!" || x.Times.End == 0 || x.Route.Name != "none" {
		t.Errorf("steps %q, end %d, route %q", steps, x.Times.End, x.Route.Name)
	}
}

// A policy that holds a body sees all of it before its step, or the request is
// refused.
func TestHold(t *testing.T) {
	for _, c := range []struct {
		name    string
		b       string
		body    string
		chunked bool
		answer  policytest.Behaviour
		method  string
		status  int
		steps   string
	}{
		{name: "request", b: ", hold_request: 5", body: "hello", status: 200, steps: "a? b? held=hello c? c=200 b=200 a=200 a! b! c!"},
		{name: "chunked request", b: ", hold_request: 5", body: "hello", chunked: true, status: 200, steps: "a? b? held=hello c? c=200 b=200 a=200 a! b! c!"},
		{name: "empty request", b: ", hold_request: 5", status: 200, steps: "a? b? held= c? c=200 b=200 a=200 a! b! c!"},
		{name: "large request", b: ", hold_request: 4", body: "hello", status: 413, steps: "a? b=413 a=413 a! b! c!"},
		{name: "large chunked request", b: ", hold_request: 4", body: "hello", chunked: true, status: 413, steps: "a? b=413 a=413 a! b! c!"},
		{
			name: "answer", b: ", hold_response: 5", status: 201, steps: "a? b? c? c=201 b=201 held=hello a=201 a! b! c!",
			answer: policytest.Behaviour{Status: 201, Pieces: []string{"he", "llo"}},
		},
		{
			name: "chunked answer", b: ", hold_response: 5", status: 201, steps: "a? b? c? c=201 b=201 held=hello a=201 a! b! c!",
			answer: policytest.Behaviour{Status: 201, Pieces: []string{"he", "llo"}, Chunked: true},
		},
		{
			name: "large answer", b: ", hold_response: 4", status: 502, steps: "a? b? c? c=200 a=502 a! b! c!",
			answer: policytest.Behaviour{Status: 200, Pieces: []string{"he", "llo"}},
		},
		{
			name: "large chunked answer", b: ", hold_response: 4", status: 502, steps: "a? b? c? c=200 a=502 a! b! c!",
			answer: policytest.Behaviour{Status: 200, Pieces: []string{"he", "llo"}, Chunked: true},
		},
		{
			name: "cut answer", b: ", hold_response: 50", status: 502, steps: "a? b? c? c=200 a=502 a! b! c!",
			answer: policytest.Behaviour{Status: 200, Pieces: []string{"he", "llo"}, Cut: true},
		},
		{
			name: "answer to HEAD", b: ", hold_response: 4", method: "HEAD", status: 200, steps: "a? b? c? c=200 b=200 a=200 a! b! c!",
			answer: policytest.Behaviour{Status: 200, Pieces: []string{"he", "llo"}},
		},
		{
			name: "unchanged answer", b: ", hold_response: 4", status: 304, steps: "a? b? c? c=304 b=304 a=304 a! b! c!",
			answer: policytest.Behaviour{Status: 304, Pieces: []string{"he", "llo"}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, tr := newRig(t, one(c.b))
			r.Behave("", c.answer)
			a := r.Do(policytest.Request{Method: c.method, Target: "/one", Body: c.body, Chunked: c.chunked})
			if a.Status != c.status || a.Truncated {
				t.Errorf("status %d, want %d: %v", a.Status, c.status, a.Problem)
			}
			if steps := tr.take(); steps != c.steps {
				t.Errorf("steps\n%s, want\n%s", steps, c.steps)
			}
			if got := r.Received(); c.status == 413 && len(got) > 0 || c.status == 200 && got[0].Body != c.body {
				t.Errorf("the upstream received %v", got)
			}
			if c.status == 201 && (a.Body != "hello" || a.Length != 5) {
				t.Errorf("the client received %q of announced length %d", a.Body, a.Length)
			}
		})
	}
}

// Taps see the bodies as they pass, each policy that was reached.
func TestTap(t *testing.T) {
	r, tr := newRig(t, one(", do: [tap-request, tap-response]"))
	r.Behave("", policytest.Behaviour{Status: 200, Pieces: []string{"he", "llo"}})
	a := r.Do(policytest.Request{Target: "/one", Body: "12345678"})
	if a.Body != "hello" || !strings.Contains(tr.take(), "b:13") {
		t.Errorf("the client received %q", a.Body)
	}

	r, tr = newRig(t, `
routes:
  - match: /one
    policies: [ a: { do: [stop, tap-response] }, b: { do: tap-response } ]
    upstream: http://up
`)
	r.Do(policytest.Request{Target: "/one"})
	if steps := tr.take(); !strings.Contains(steps, "a:7") || strings.Contains(steps, "b") {
		t.Errorf("steps %s", steps)
	}
}

// A tap that panics cuts the body, and harms nothing else.
func TestTapPanics(t *testing.T) {
	r, _ := newRig(t, one(", do: panic-tap-request"))
	a := r.Do(policytest.Request{Target: "/one", Body: "hello"})
	if a.Status != 500 || len(r.Errors()) != 1 || !strings.Contains(a.Body, "internal_error") {
		t.Errorf("status %d", a.Status)
	}
	r, _ = newRig(t, one(", do: panic-tap-response"))
	a = r.Do(policytest.Request{Target: "/one"})
	if !a.Aborted || !a.Truncated || len(r.Errors()) != 1 || codeOf(a.Problem) != "internal_error" {
		t.Errorf("aborted %v, truncated %v, problem %v", a.Aborted, a.Truncated, a.Problem)
	}
}

// An answer that breaks off, or that nobody takes, is not passed for a whole one.
func TestBroken(t *testing.T) {
	own := &exchange.Problem{Status: 408, Code: "slow", Detail: "Too slow."}
	for _, c := range []struct {
		name   string
		answer policytest.Behaviour
		writes error
		status int
		code   string
	}{
		{"cut", policytest.Behaviour{Status: 200, Pieces: []string{"he"}, Cut: true}, nil, 200, "answer_cut"},
		{"client gone", policytest.Behaviour{}, io.ErrClosedPipe, 200, "client_gone"},
		{"engine's own reason", policytest.Behaviour{}, own, 200, "slow"},
		{"upstream failed", policytest.Behaviour{Problem: &teapot}, nil, 418, "teapot"},
		{"upstream panics", policytest.Behaviour{Do: func(*exchange.Exchange) { panic("up") }}, nil, 500, "internal_error"},
		{"body panics", policytest.Behaviour{Do: func(x *exchange.Exchange) {
			x.Response.Status, x.Response.Body, x.Response.Length = 200, badBody{}, exchange.Unknown
		}}, nil, 200, "internal_error"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, tr := newRig(t, one(""))
			r.Behave("", c.answer)
			a := r.Do(policytest.Request{Target: "/one", Writes: c.writes})
			if a.Status != c.status || codeOf(a.Problem) != c.code {
				t.Errorf("status %d, problem %v", a.Status, a.Problem)
			}
			if cut := c.status == 200; a.Aborted != cut || a.Truncated != cut {
				t.Errorf("aborted %v, truncated %v", a.Aborted, a.Truncated)
			}
			if steps := tr.take(); !strings.HasSuffix(steps, "a! b! c!") {
				t.Errorf("steps %s", steps)
			}
			if r.Errors() == nil != (c.code != "internal_error") {
				t.Error("panics are logged, and nothing else is")
			}
		})
	}
}

// badBody panics wherever it is touched.
type badBody struct{}

func (badBody) Next() ([]byte, error) { panic("next") }
func (badBody) Close() error          { panic("close") }

// A client that leaves ends what is done for it.
func TestClientLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := new(trace)
		r := policytest.NewRig(t, catalog(), one(""), tr.service)
		defer r.Close()
		r.Behave("", policytest.Behaviour{Status: 200, After: time.Hour})
		begin := time.Now()
		a := r.Do(policytest.Request{Target: "/one", Leave: time.Second})
		if a.Status != exchange.StatusClientGone || !a.Aborted || time.Since(begin) != time.Second {
			t.Errorf("status %d after %v", a.Status, time.Since(begin))
		}
		if steps := tr.take(); steps != "a? b? c? a! b! c!" {
			t.Errorf("steps %s", steps)
		}
	})
}

// tunnelBody is the upstream's half of an upgraded connection.
type tunnelBody struct {
	joined, closed int
	err            error
}

func (b *tunnelBody) Next() ([]byte, error) { return nil, io.EOF }
func (b *tunnelBody) Close() error          { b.closed++; return nil }
func (b *tunnelBody) Join(*exchange.Exchange, exchange.Stream) error {
	b.joined++
	return b.err
}

// An upgrade that the upstream agrees to joins both connections. The policies
// run; bodies are neither held nor tapped.
func TestUpgrade(t *testing.T) {
	for _, broke := range []error{nil, errors.New("broke")} {
		r, _ := newRig(t, one(", hold_response: 1, do: tap-response"))
		body := &tunnelBody{err: broke}
		r.Behave("", policytest.Behaviour{Do: func(x *exchange.Exchange) {
			x.Response.Status, x.Response.Body = 101, body
			x.Response.Header.Add("Upgrade", "websocket")
			x.Response.Header.Add("Connection", "keep-alive, Upgrade, X-Drop")
			x.Response.Header.Add("X-Drop", "1")
		}})
		a := r.Do(policytest.Request{Target: "/one", Header: []exchange.Field{{Name: "Upgrade", Value: "websocket"}, {Name: "Connection", Value: "Upgrade"}}})
		if a.Status != 101 || !a.Upgraded || body.joined != 1 || a.Truncated != (broke != nil) {
			t.Errorf("status %d, upgraded %v, joined %d times, truncated %v", a.Status, a.Upgraded, body.joined, a.Truncated)
		}
		if a.Header.Get("Upgrade") != "websocket" || a.Header.Get("X-Probe") == "" || a.Header.Get("X-Drop") != "" {
			t.Errorf("the client received %v", a)
		}
	}
}

// On the plain path the gateway allocates one string: the Forwarded field.
func TestAllocations(t *testing.T) {
	if raced {
		t.Skip("pools drop at random under the race detector")
	}
	serve := policytest.Plain(t, catalog(), "routes:\n  - match: /*\n    upstream: http://up\n", nil)
	if n := testing.AllocsPerRun(200, serve); n > 1 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkServe(b *testing.B) {
	serve := policytest.Plain(b, catalog(), "routes:\n  - match: /*\n    upstream: http://up\n", nil)
	b.ReportAllocs()
	for b.Loop() {
		serve()
	}
}

// A body that cannot be had as a whole is not taken for one.
func TestHoldBroken(t *testing.T) {
	r, tr := newRig(t, one(", hold_request: 50"))
	for _, chunked := range []bool{false, true} {
		a := r.Do(policytest.Request{Target: "/one", Body: "hello", Cut: true, Chunked: chunked})
		if a.Status != 400 || codeOf(a.Problem) != "body_incomplete" || tr.take() != "a? b=400 a=400 a! b! c!" || len(r.Received()) != 0 {
			t.Errorf("status %d, problem %v", a.Status, a.Problem)
		}
	}
}

// Trailers go on also where a body was held.
func TestHoldTrailers(t *testing.T) {
	r, _ := newRig(t, one(", hold_request: 50, hold_response: 50"))
	sum := []exchange.Field{{Name: "X-Sum", Value: "1"}}
	r.Behave("", policytest.Behaviour{Status: 200, Pieces: []string{"hello"}, Chunked: true, Trailer: sum})
	a := r.Do(policytest.Request{Target: "/one", Body: "hello", Chunked: true, Trailer: sum})
	if a.Trailer.Get("X-Sum") != "1" || a.Length != exchange.Unknown || a.Body != "hello" {
		t.Errorf("the client received %v of length %d, trailer %q", a, a.Length, a.Trailer.Get("X-Sum"))
	}
	if got := r.Received(); len(got) != 1 || got[0].Trailer.Get("X-Sum") != "1" {
		t.Errorf("the upstream received %v", got)
	}
}
