package gateway_test

import (
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
