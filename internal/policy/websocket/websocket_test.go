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
	all := exchange.TunnelLimits{Idle: time.Minute, Lifetime: time.Hour, MaxMessage: 100, MaxFrame: 10}
	times := exchange.TunnelLimits{Idle: time.Minute, Lifetime: time.Hour}
	for _, c := range []struct {
		asked, got string
		want       exchange.TunnelLimits
	}{
		{"", "", exchange.TunnelLimits{}},
		{"WebSocket", "websocket", all},
		{"websocket", "", all}, // over HTTP/2 nothing is said again
		{"other", "other", times},
		// A client cannot choose the limits by naming more than one protocol.
		{"other, websocket", "websocket", all},
		{"websocket, other", "WebSocket", all},
		{"websocket/13", "websocket/13", all},
		{"websocket, other", "other", times},
	} {
		x := exchange.Get()
		x.Request.Upgrade = c.asked
		v := p.(policy.OnRequest).Request(x)
		if x.Response.Status = 101; c.got != "" {
			x.Response.Header.Add("Upgrade", c.got)
		}
		p.(policy.OnResponse).Response(x)
		if v != policy.Next || x.Tunnel != c.want {
			t.Errorf("%q, %q: %v %+v", c.asked, c.got, v, x.Tunnel)
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
