package gateway_test

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/gateway"
	"gatehouse.dev/gatehouse/internal/observe"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

type faulty struct {
	name, text string
	want       []string // how the faults begin, in order of place
}

func faultyConfigs() []faulty {
	return []faulty{
		{
			"policies of every level", `
listeners:
  - address: ":1"
    policies: [ a: { do: fault } ]
policies:
  - b: { name: x, do: [fault] }
routes:
  - match: /
    policies:
      - c: { do: panic-compile }
    upstream: http://up
`,
			[]string{
				"gatehouse.yaml:4:17: listeners[0].policies[0].a.name: name is wrong (write another)",
				"gatehouse.yaml:4:17: listeners[0].policies[0].a: all is wrong",
				"gatehouse.yaml:4:26: listeners[0].policies[0].a.do[0]: do is wrong",
				"gatehouse.yaml:6:5: policies[0].b: all is wrong",
				"gatehouse.yaml:6:16: policies[0].b.name: name is wrong (write another)",
				"gatehouse.yaml:6:24: policies[0].b.do[0]: do is wrong",
				"gatehouse.yaml:10:9: routes[0].policies[0].c: compiling c failed by an error of the gateway",
			},
		},
		{
			"twice in one list", `
policies:
  - a: {}
  - r: {}
  - r: {}
  - a: {}
  - a: {}
routes: []
`,
			[]string{
				"gatehouse.yaml:6:5: policies[3].a: a stands twice in this list, first at policies[0] (join the two, or remove one)",
				"gatehouse.yaml:7:5: policies[4].a: a stands twice in this list, first at policies[0] (join the two, or remove one)",
			},
		},
		{
			"routes", `
routes:
  - match: /a/{x}
    redirect: { to: "/{y}" }
  - match: /b/{x}
    rewrite: { path: "/{y}" }
    upstream: http://up
  - match: { path_regex: "(" }
    respond: {}
  - match: /c
    respond: {}
  - match: /c
    respond: {}
`,
			[]string{
				"gatehouse.yaml:4:21: routes[0].redirect.to: ",
				"gatehouse.yaml:6:22: routes[1].rewrite.path: ",
				"gatehouse.yaml:8:26: routes[2].match.path_regex: ",
				"gatehouse.yaml:12:12: routes[4].match",
			},
		},
		{
			"upstreams", `
upstreams:
  bad: { endpoints: [http://h] }
routes:
  - match: /a
    upstream: bad
  - match: /b
    split: [ { upstream: http://up }, { upstream: bad } ]
`,
			[]string{
				`gatehouse.yaml:6:15: routes[0].upstream: upstream "bad": it is bad`,
				`gatehouse.yaml:8:51: routes[1].split[1].upstream: upstream "bad": it is bad`,
			},
		},
	}
}

// Compiling goes on after a fault and reports all of them, each with its place.
func TestFaults(t *testing.T) {
	for _, c := range faultyConfigs() {
		t.Run(c.name, func(t *testing.T) {
			cfg := parse(t, c.text)
			var log strings.Builder
			g := gateway.New(gateway.Deps{
				Log:      slog.New(slog.NewTextHandler(&log, nil)),
				Metrics:  observe.NewMetrics(config.Metrics{MaxRoutes: 10}),
				Upstream: (&services{}).upstream,
				Service:  new(trace).service,
			})
			defer g.Close()
			before := g.Snapshot()
			faults := g.Apply(cfg)
			var have []string
			for _, f := range faults {
				have = append(have, f.Error())
			}
			if len(have) != len(c.want) {
				t.Fatalf("%d faults, want %d:\n%s", len(have), len(c.want), strings.Join(have, "\n"))
			}
			for i := range have {
				if !strings.HasPrefix(have[i], c.want[i]) {
					t.Errorf("fault %s\nwant  %s", have[i], c.want[i])
				}
			}
			if g.Snapshot() != before {
				t.Error("a configuration with faults went live")
			}
			if strings.Contains(c.text, "panic") != strings.Contains(log.String(), "panic=compile") {
				t.Errorf("the log says %s", log.String())
			}
		})
	}
}

// A route that can never be reached is a warning, and no more than that.
func TestWarnings(t *testing.T) {
	r, _ := newRig(t, "routes: []")
	faults := r.Apply(`
routes:
  - match: /*
    respond: {}
  - match: /*
    respond: {}
`)
	if !faults.Fatal() {
		t.Errorf("two routes that cannot be told apart: %v", faults)
	}
	faults = r.Apply(`
routes:
  - match: { path: "/a/*", methods: [GET, POST] }
    respond: {}
  - match: { path: "/a/*", methods: [POST] }
    respond: {}
`)
	if faults.Fatal() || len(faults) != 1 || !faults[0].Warning {
		t.Errorf("faults %v", faults)
	}
	if s := r.Snapshot(); s.Warnings != 1 || s.Routes != 2 || s.Digest != r.Config.Digest() {
		t.Errorf("the snapshot says %d warnings, %d routes, digest %s", s.Warnings, s.Routes, s.Digest)
	}
}

func parse(t testing.TB, text string) *config.Config {
	t.Helper()
	cfg, faults := config.Parse("gatehouse.yaml", []byte(text), catalog())
	if faults.Fatal() {
		t.Fatal(faults)
	}
	return cfg
}

// services makes upstreams and keeps them.
type services struct {
	mu   sync.Mutex
	made []*service
}

type service struct {
	name    string
	mu      sync.Mutex
	retired int
	copies  int
}

func (s *services) upstream(name string, _ *config.Upstream) (gateway.Upstream, error) {
	if name == "bad" {
		return nil, errors.New("it is bad")
	}
	u := &service{name: name}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.made = append(s.made, u)
	return u, nil
}

func (u *service) Serve(x *exchange.Exchange) { x.Upstream.Name, x.Response.Status = u.name, 200 }

func (u *service) ServeOr(x *exchange.Exchange, next func(*exchange.Exchange)) {
	if u.name == "down" {
		next(x)
		return
	}
	u.Serve(x)
}

func (u *service) Mirror(x *exchange.Exchange, conceal func(*exchange.Exchange)) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.copies++
	return true
}

func (u *service) Retire() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.retired++
}

// state lists the upstreams that were made, with a - for each time they were
// retired.
func (s *services) state() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, u := range s.made {
		u.mu.Lock()
		out = append(out, strings.TrimPrefix(u.name, "http://")+strings.Repeat("-", u.retired))
		u.mu.Unlock()
	}
	return strings.Join(out, " ")
}

// What a new configuration asks for again lives on, also when it is asked for
// in other places; what it does not ask for is retired once, after the swap;
// what a configuration with faults made is retired, and nothing else.
func TestKeepUpstreams(t *testing.T) {
	s := &services{}
	g := gateway.New(gateway.Deps{
		Log: slog.New(slog.DiscardHandler), Metrics: observe.NewMetrics(config.Metrics{MaxRoutes: 10}),
		Upstream: s.upstream, Service: new(trace).service,
	})
	routes := func(ups ...string) string {
		var b strings.Builder
		b.WriteString("routes:\n")
		for i, u := range ups {
			fmt.Fprintf(&b, "  - match: /%d\n    upstream: %s\n", i, u)
		}
		return b.String()
	}
	named := "upstreams: { n: { endpoints: [http://h], connections: { idle: %d } } }\n"
	for _, c := range []struct {
		text, want string
		fatal      bool
	}{
		{text: routes("http://a", "http://b", "http://a"), want: "a b"},
		{text: routes("http://b", "http://a"), want: "a b"},
		{text: routes("http://b"), want: "a- b"},
		{text: routes("http://a", "http://b"), want: "a- b a"},
		{text: routes("http://c", "bad") + "upstreams: { bad: { endpoints: [http://h] } }\n", want: "a- b a c-", fatal: true},
		{text: routes("http://a", "n") + fmt.Sprintf(named, 5), want: "a- b- a c- n"},
		{text: routes("n", "http://a") + fmt.Sprintf(named, 5), want: "a- b- a c- n"},
		{text: routes("n", "http://a") + fmt.Sprintf(named, 6), want: "a- b- a c- n- n"},
	} {
		if faults := g.Apply(parse(t, c.text)); faults.Fatal() != c.fatal {
			t.Fatal(faults)
		}
		if got := s.state(); got != c.want {
			t.Errorf("after %s: %s, want %s", c.text, got, c.want)
		}
	}
	p, _ := g.Compile(parse(t, routes("http://d")))
	p.Discard()
	if got := s.state(); got != "a- b- a c- n- n d-" {
		t.Errorf("after a snapshot was given up: %s", got)
	}
	g.Close()
	if got := s.state(); got != "a- b- a- c- n- n- d-" {
		t.Errorf("after the end: %s", got)
	}
}

// A policy's live object is found again by its key, by policies of its kind
// alone.
func TestKeepOfPolicies(t *testing.T) {
	r, tr := newRig(t, "routes: []")
	seen := func(policies string) []*kept {
		t.Helper()
		if faults := r.Apply("routes: [ { match: /, respond: {}, policies: [" + policies + "] } ]"); faults.Fatal() {
			t.Fatal(faults)
		}
		tr.kept = nil
		r.Do(policytest.Request{Target: "/"})
		return tr.kept
	}
	first := seen("a: { keep: x }, b: { keep: x }")
	if first[0] == first[1] {
		t.Error("policies of two kinds share an object")
	}
	second := seen("a: { keep: x, name: other }, b: { keep: y }")
	if second[0] != first[0] || second[1] == first[1] {
		t.Error("a key does not lead to the same object, or another one does")
	}
	if first[0].retired != 0 || first[1].retired != 1 {
		t.Errorf("retired %d and %d times", first[0].retired, first[1].retired)
	}
}

// The policies of gateway, listener and route make one plan: by stage, then by
// kind, then from the outermost level to the innermost. Of a kind that is not
// repeatable the innermost one stays.
func TestMerging(t *testing.T) {
	for _, c := range []struct {
		name                 string
		top, listener, route string
		want                 string // the request steps
	}{
		{"none", "", "", "", ""},
		{"order of kinds", "c: {}, a: {}, b: {}", "", "", "a b c"},
		{"order of stages", "a: { at: cache }, b: { at: edge }, c: { at: authorize }", "", "", "b c a"},
		{"levels", "a: { name: top }", "b: { name: listener }", "c: { name: route }", "top listener route"},
		{"levels under stages", "a: { name: top, at: admit }", "b: { name: listener, at: edge }", "c: { name: route, at: identify }", "listener route top"},
		{"innermost", "a: { name: top }, b: {}", "a: { name: listener }", "a: { name: route }", "route b"},
		{"innermost of two", "a: { name: top }", "a: { name: listener }", "", "listener"},
		{"innermost in its own stage", "a: { name: top, at: edge }, b: { at: admit }", "", "a: { name: route, at: cache }", "b route"},
		{"repeatable", "r: { name: top }", "r: { name: listener }", "r: { name: route }, r: { name: again }", "top listener route again"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, tr := newRig(t, fmt.Sprintf(`
listeners:
  - { name: own, address: ":1", policies: [ %s ] }
  - { name: other, address: ":2" }
policies: [ %s ]
routes:
  - { match: /, respond: {}, policies: [ %s ] }
  - { match: /bare, respond: {} }
`, c.listener, c.top, c.route))
			r.Do(policytest.Request{Target: "/"})
			steps := strings.Fields(tr.take())
			var asked, answered []string
			for _, s := range steps {
				if name, ok := strings.CutSuffix(s, "?"); ok {
					asked = append(asked, name)
				} else if name, _, ok := strings.Cut(s, "="); ok {
					answered = append(answered, name)
				}
			}
			if got := strings.Join(asked, " "); got != c.want {
				t.Errorf("steps %q, want %q", got, c.want)
			}
			slices.Reverse(answered)
			if !slices.Equal(asked, answered) {
				t.Errorf("request steps %q, and response steps reversed %q", asked, answered)
			}
			r.Do(policytest.Request{Target: "/bare", Client: r.Client("192.0.2.1:1", r.Config.Listeners[1])})
			if got := tr.take(); strings.Contains(got, "route") || strings.Contains(got, "listener") {
				t.Errorf("on another route and listener: %s", got)
			}
		})
	}
}

// An exchange ends on the snapshot that it began with, while others come and
// go: what a policy did to its request, the same one does to its answer.
func TestSwapUnderLoad(t *testing.T) {
	r, _ := newRig(t, "routes: []")
	text := func(n int) *config.Config {
		return parse(t, fmt.Sprintf("policies: [ a: { name: a%d }, r: { name: r%d } ]\nroutes: [ { match: /, upstream: http://up } ]", n, n))
	}
	r.Gateway.Apply(text(0))
	r.Config = text(0)
	var all sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		all.Go(func() {
			for served := 0; ; served++ {
				select {
				case <-stop:
					if served > 0 {
						return
					}
				default:
				}
				a := r.Do(policytest.Request{Target: "/", Body: "hello"})
				var names []string
				for v := range a.Header.Values("X-Probe") {
					names = append(names, v)
				}
				if a.Status != 200 || len(names) != 2 || names[0][1:] != names[1][1:] {
					t.Errorf("status %d, policies %q", a.Status, names)
					return
				}
			}
		})
	}
	for i := range 200 {
		if faults := r.Gateway.Apply(text(i)); faults.Fatal() {
			t.Error(faults)
		}
	}
	close(stop)
	all.Wait()
}
