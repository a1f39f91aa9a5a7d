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
		x := exchange.Get()
		x.Client = &exchange.Client{Listener: "a"}
		x.Down = plain{}
		r := &x.Request
		r.Proto, r.Method, r.Scheme, r.Authority, r.Host, r.RawPath, r.Path = exchange.HTTP11, "GET", "http", "a.example", "a.example", path, path
		g.Serve(x)
		if x.Response.Status != 200 || x.Upstream.Name != want {
			t.Errorf("%s: %d from %q, want %q", path, x.Response.Status, x.Upstream.Name, want)
		}
		exchange.Put(x)
	}
	if faults := g.Apply(parse(t, ups+"routes: [{ match: /up, upstream: up }]")); faults.Fatal() {
		t.Fatal(faults)
	}
	if got := s.state(); got != "up last down-" {
		t.Errorf("upstreams are %s", got)
	}
	g.Close()
}
