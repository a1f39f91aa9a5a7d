package gateway_test

import (
	"strconv"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/gateway"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

// explain plays a request on a rig's configuration, as its gateway would serve
// it.
func explain(t *testing.T, r *policytest.Rig, method, path string, fields ...exchange.Field) *gateway.Explanation {
	t.Helper()
	pending, faults := r.Compile(r.Config)
	if faults.Fatal() {
		t.Fatal(faults)
	}
	defer pending.Discard()
	x := exchange.Get()
	defer exchange.Put(x)
	q := &x.Request
	q.Proto, q.Method, q.Scheme, q.Authority, q.Host, q.RawPath = exchange.HTTP11, method, "http", "gateway.example", "gateway.example", path
	for _, f := range fields {
		q.Header.Add(f.Name, f.Value)
	}
	x.Client = r.DefaultClient()
	x.Times.Start = exchange.Now()
	return pending.Explain(x)
}

// TestExplainAgrees holds explanations to what really happens: the same request
// steps run, and the answer is the same.
func TestExplainAgrees(t *testing.T) {
	const text = `
listeners: [ { address: ":1", policies: [ b: { at: edge } ] } ]
policies: [ a: { at: identify, do: [ group=gold ] } ]
groups:
  gold: { policies: [ r: { name: gold } ] }
  iron: { policies: [ r: { name: iron } ] }
routes:
  - { match: /on, upstream: "http://up" }
  - { match: POST /post, upstream: "http://up" }
  - { match: /own, policies: [ a: { name: own, at: admit } ], upstream: "http://up" }
  - { match: /fail, policies: [ c: { do: [ fail ] } ], upstream: "http://up" }
  - { match: /stop, policies: [ c: { do: [ stop ] } ], upstream: "http://up" }
  - { match: /empty, policies: [ c: { do: [ stop-empty ] } ], upstream: "http://up" }
  - { match: /panic, policies: [ c: { do: [ panic-request ] } ], upstream: "http://up" }
  - { match: /held, policies: [ c: { hold_request: 10B } ], upstream: "http://up" }
  - { match: /strip/*, rewrite: { path: "/x/{rest}", host: inner }, policies: [ c: { at: transform } ], upstream: "http://up" }
  - { match: /bad/*, rewrite: { path: "/x/.{rest}" }, upstream: "http://up" }
  - { match: /split, split: [ { upstream: "http://up", weight: 1 }, { upstream: "http://other", weight: 0 } ], upstream: "" }
  - { match: /respond, respond: { status: 203 } }
  - { match: /redirect, redirect: { to: "/on", status: 307 } }
`
	r, trace := newRig(t, strings.Replace(text, `, upstream: "" }`, " }", 1))
	for _, c := range []struct{ method, path string }{
		{"GET", "/on"},
		{"GET", "/post"},
		{"POST", "/post"},
		{"GET", "/own"},
		{"GET", "/fail"},
		{"GET", "/stop"},
		{"GET", "/empty"},
		{"GET", "/panic"},
		{"GET", "/held"},
		{"GET", "/strip/a/b"},
		{"GET", "/bad/%2Fx"},
		{"GET", "/split"},
		{"GET", "/respond"},
		{"GET", "/redirect"},
		{"GET", "/nowhere"},
		{"GET", "/a%"},
		{"GET", "/a/../on"},
	} {
		name := c.method + " " + c.path
		e := explain(t, r, c.method, c.path)
		played := trace.take()
		answer := r.Do(policytest.Request{Method: c.method, Target: c.path})
		var asked []string
		for step := range strings.FieldsSeq(trace.take()) {
			if strings.HasSuffix(step, "?") || strings.HasPrefix(step, "held=") {
				asked = append(asked, step)
			}
		}
		if served := strings.Join(asked, " "); played != served {
			t.Errorf("%s: the steps %q are played, %q run", name, played, served)
		}
		got := e.Result
		received := r.Received()
		switch {
		case got.Kind == gateway.ResultUpstream:
			if len(received) != 1 || received[0].Upstream != got.Upstreams[0].Name || received[0].Target != got.Path || len(got.Upstreams) != 1 {
				t.Errorf("%s: %+v is said, and the upstreams got %v", name, got, received)
			}
		case len(received) > 0 || got.Status != answer.Status:
			t.Errorf("%s: %+v is said, and the answer is %v", name, got, answer)
		case (got.Kind == gateway.ResultProblem) != (answer.Problem != nil) || answer.Problem != nil && got.Code != answer.Problem.Code:
			t.Errorf("%s: %+v is said, and the problem is %v", name, got, answer.Problem)
		}
		won := 0
		for _, one := range e.Routes {
			if one.Outcome == "won" {
				won++
				if one.Name != e.Route {
					t.Errorf("%s: route %s is said to win, and %s to be taken", name, one.Name, e.Route)
				}
			}
			if one.Reason == "" || one.Place.Line == 0 {
				t.Errorf("%s: nothing says why, or where: %+v", name, one)
			}
		}
		if (e.Route != "") != (won == 1) {
			t.Errorf("%s: %d routes win, and %q is taken", name, won, e.Route)
		}
	}
	r.Errors() // of the panics, which are told
}

// TestExplainSteps looks at where policies come from, and at those that have no
// part in a request.
func TestExplainSteps(t *testing.T) {
	r, _ := newRig(t, `
listeners: [ { name: main, address: ":1", policies: [ b: { at: edge } ] } ]
policies: [ a: { at: identify, do: [ group=gold ] }, c: { at: report } ]
groups:
  gold: { policies: [ r: { name: gold } ] }
  iron: { policies: [ r: { name: iron } ] }
routes:
  - { name: one, match: /one, rewrite: { path: /two }, policies: [ r: { name: own } ], upstream: "http://up" }
`)
	var got []string
	for _, s := range explain(t, r, "GET", "/one").Steps {
		got = append(got, strings.Join([]string{s.Stage, s.Policy, s.From, s.Place.String(), s.Verdict, s.Text}, "|"))
	}
	want := []string{
		"edge|b|listener main|gatehouse.yaml:2|next|",
		"identify|a|gateway|gatehouse.yaml:3|next|",
		"transform|rewrite|route one|gatehouse.yaml:8|next|",
		"transform|r|route one|gatehouse.yaml:8|next|",
		"transform|r|group gold|gatehouse.yaml:5|next|",
		"transform|r|group iron|gatehouse.yaml:6|skipped|only for group iron",
		"report|c|gateway|gatehouse.yaml:3|next|",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("the steps are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Many routes do not fill the screen, and the one that wins is among those
// shown.
func TestExplainMany(t *testing.T) {
	var text strings.Builder
	text.WriteString("routes:\n")
	for i := range 50 {
		text.WriteString("  - { match: { path: /a/*, query: { q: \"" + strconv.Itoa(i) + "\" } }, respond: {} }\n")
	}
	text.WriteString("  - { name: last, match: /a/*, respond: {} }\n  - { match: /far/*, respond: {} }\n")
	r, _ := newRig(t, text.String())
	e := explain(t, r, "GET", "/a/b")
	if len(e.Routes) > 9 || e.Routes[0].Name != "last" || e.Routes[0].Outcome != "won" || e.Omitted+len(e.Routes) != len(r.Config.Routes) {
		t.Errorf("%d routes are shown and %d left out of %d, the first is %+v", len(e.Routes), e.Omitted, len(r.Config.Routes), e.Routes[0])
	}
}
