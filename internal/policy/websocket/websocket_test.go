package websocket_test

import (
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
	"gatehouse.dev/gatehouse/internal/policy/websocket"
)

func Test(t *testing.T) {
	policytest.Run(t, policytest.Suite{Catalog: all.Catalog(), Kind: "websocket", Settings: "{ max_message: 1MiB }"})
}

// The limits of frames are for WebSockets alone.
func TestLimits(t *testing.T) {
	c := &websocket.Config{MaxMessage: 100, MaxFrame: 10, Idle: policy.Duration(time.Minute), Lifetime: policy.Duration(time.Hour)}
	p, err := c.Compile(nil)
	if err != nil {
		t.Fatal(err)
	}
	for upgrade, want := range map[string]exchange.TunnelLimits{
		"":          {},
		"WebSocket": {Idle: time.Minute, Lifetime: time.Hour, MaxMessage: 100, MaxFrame: 10},
		"other":     {Idle: time.Minute, Lifetime: time.Hour},
	} {
		x := exchange.Get()
		x.Request.Upgrade = upgrade
		if v := p.(policy.OnRequest).Request(x); v != policy.Next || x.Tunnel != want {
			t.Errorf("%q: %v %+v", upgrade, v, x.Tunnel)
		}
		exchange.Put(x)
	}
}

func BenchmarkPlain(b *testing.B) {
	serve := policytest.Plain(b, all.Catalog(), `
routes:
  - match: /*
    upstream: http://up
    policies: [ websocket: { max_message: 1MiB } ]
`, nil)
	b.ReportAllocs()
	for b.Loop() {
		serve()
	}
}
