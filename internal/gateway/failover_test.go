package gateway_test

import (
	"fmt"
	"log/slog"
	"testing"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/gateway"
	"gatehouse.dev/gatehouse/internal/observe"
)

// plain is a client that takes an answer without a body.
type plain struct{ exchange.Downstream }

func (plain) WriteHead(*exchange.Exchange) error               { return nil }
func (plain) WriteFrom(*exchange.Exchange) (r, w error)        { return nil, nil }
func (plain) Flush() error                                     { return nil }
func (plain) Finish(*exchange.Exchange) error                  { return nil }
func (plain) WriteBody([]byte) error                           { return nil }
func (plain) Inform(status int, header *exchange.Header) error { return nil }

// What an upstream cannot serve another one does, also where it is one of a
// split, and that one's successor in its turn. Both live as long as they are
// asked for.
func TestFailover(t *testing.T) {
	s := &services{}
	g := gateway.New(gateway.Deps{
		Log: slog.New(slog.DiscardHandler), Metrics: observe.NewMetrics(config.Metrics{MaxRoutes: 10}),
		Upstream: s.upstream, Service: new(trace).service,
	})
	const ups = `
upstreams:
  up: { endpoints: [http://a], failover: last }
  down: { endpoints: [http://b], failover: up }
  last: { endpoints: [http://c] }
`
	if faults := g.Apply(parse(t, ups+`
routes:
  - { match: /up, upstream: up }
  - { match: /down, upstream: down }
  - { match: /split, split: [{ upstream: down }] }
`)); faults.Fatal() {
		t.Fatal(faults)
	}
	for path, want := range map[string]string{"/up": "up", "/down": "up", "/split": "up"} {
		x := ask(g, path)
		if x.Response.Status != 200 || x.Upstream.Name != want {
			t.Errorf("%s: %d from %q, want %q", path, x.Response.Status, x.Upstream.Name, want)
		}
	}
	if faults := g.Apply(parse(t, ups+"routes: [{ match: /up, upstream: up }]")); faults.Fatal() {
		t.Fatal(faults)
	}
	if got := s.state(); got != "up last down-" {
		t.Errorf("upstreams are %s", got)
	}
	g.Close()
}

// Copies go to the other upstream as often as the route says.
func TestMirror(t *testing.T) {
	s := &services{}
	g := gateway.New(gateway.Deps{
		Log: slog.New(slog.DiscardHandler), Metrics: observe.NewMetrics(config.Metrics{MaxRoutes: 10}),
		Upstream: s.upstream, Service: new(trace).service,
	})
	defer g.Close()
	if faults := g.Apply(parse(t, `
routes:
  - { match: /all, upstream: "http://a", mirror: { upstream: "http://m" } }
  - { match: /some, split: [{ upstream: "http://a" }], mirror: { upstream: "http://m", sample: 10% } }
  - { match: /none, upstream: "http://a", mirror: { upstream: "http://m", sample: 0% } }
`)); faults.Fatal() {
		t.Fatal(faults)
	}
	for path, want := range map[string][2]int{"/all": {1000, 1000}, "/some": {60, 140}, "/none": {0, 0}} {
		before := s.copies("http://m")
		for range 1000 {
			if x := ask(g, path); x.Upstream.Name != "http://a" || x.Response.Status != 200 {
				t.Fatalf("%s: %d from %q", path, x.Response.Status, x.Upstream.Name)
			}
		}
		if n := s.copies("http://m") - before; n < want[0] || n > want[1] {
			t.Errorf("%s: %d of 1000 requests were copied", path, n)
		}
	}
}

// A caller stays in one part of a split, whatever part that is; without
// split_by the parts take turns by chance.
func TestSplitBy(t *testing.T) {
	g := gateway.New(gateway.Deps{
		Log: slog.New(slog.DiscardHandler), Metrics: observe.NewMetrics(config.Metrics{MaxRoutes: 10}),
		Upstream: new(services).upstream, Service: new(trace).service,
	})
	defer g.Close()
	if faults := g.Apply(parse(t, `
routes:
  - { match: /any, split: [{ upstream: "http://a", weight: 3 }, { upstream: "http://b", weight: 1 }] }
  - { match: /one, split_by: header:X-User, split: [{ upstream: "http://a", weight: 3 }, { upstream: "http://b", weight: 1 }] }
`)); faults.Fatal() {
		t.Fatal(faults)
	}
	from := func(path, user, ip string) string {
		x := exchange.Get()
		defer exchange.Put(x)
		x.Client, x.Down = &exchange.Client{Listener: "a", IP: ip}, plain{}
		r := &x.Request
		r.Proto, r.Method, r.Scheme, r.Authority, r.Host, r.RawPath, r.Path = exchange.HTTP11, "GET", "http", "a.example", "a.example", path, path
		if user != "" {
			r.Header.Add("X-User", user)
		}
		g.Serve(x)
		return x.Upstream.Name
	}
	counts := map[string]int{}
	for i := range 1000 {
		user, ip := fmt.Sprint("user-", i), fmt.Sprintf("192.0.2.%d", i%250)
		first := from("/one", user, "192.0.2.1")
		counts["one "+first]++
		if again := from("/one", user, "192.0.2.2"); again != first {
			t.Fatalf("%s came to %s and then to %s", user, first, again)
		}
		if nobody := from("/one", "", ip); nobody != from("/one", "", ip) {
			t.Fatalf("a client at %s without the field did not stay", ip)
		}
		counts["any "+from("/any", user, ip)]++
		counts["none "+from("/one", "", "")]++
	}
	for _, kind := range []string{"one", "any", "none"} {
		if n := counts[kind+" http://a"]; n < 680 || n > 820 {
			t.Errorf("%s: %d of 1000 came to the part of three quarters", kind, n)
		}
	}
}

// copies returns how many copies an upstream got.
func (s *services) copies(name string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.made {
		if u.name == name {
			u.mu.Lock()
			n += u.copies
			u.mu.Unlock()
		}
	}
	return n
}

// ask has a gateway answer a GET.
func ask(g *gateway.Gateway, path string) *exchange.Exchange {
	x := exchange.Get()
	x.Client = &exchange.Client{Listener: "a"}
	x.Down = plain{}
	r := &x.Request
	r.Proto, r.Method, r.Scheme, r.Authority, r.Host, r.RawPath, r.Path = exchange.HTTP11, "GET", "http", "a.example", "a.example", path, path
	g.Serve(x)
	return x
}
