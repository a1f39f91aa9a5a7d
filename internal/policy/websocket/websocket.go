// Package websocket is the policy that bounds upgraded connections. It owns
// what the limits of a route are. It refuses to look at a frame itself: whoever
// joins the two ends keeps to the limits that it leaves with the exchange.
package websocket

import (
	"cmp"
	"strings"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Kind is the kind "websocket".
func Kind() *policy.Kind {
	return &policy.Kind{
		Name: "websocket", Stage: policy.Admit,
		New: func() policy.Config { return new(Config) },
		Doc: "Bounds WebSockets: their messages, and how long they live.",
	}
}

// Config says how large messages may be and how long connections may live. 0
// means no limit.
type Config struct {
	// Largest message, in bytes as they are sent: of a compressed one, compressed. A longer one ends the connection with status 1009.
	MaxMessage policy.Size `yaml:"max_message" max:"1TiB"`
	// Largest payload of one frame.
	MaxFrame policy.Size `yaml:"max_frame" max:"1TiB"`
	// Longest time without a byte either way. The upstream's timeout.idle holds too.
	Idle policy.Duration `yaml:"idle" max:"8760h"`
	// Longest time that a connection may be open, whatever flows.
	Lifetime policy.Duration `yaml:"lifetime" max:"8760h"`
}

// Compile wants a limit.
func (c *Config) Compile(*policy.Env) (policy.Policy, error) {
	l := exchange.TunnelLimits{
		Idle: c.Idle.D(), Lifetime: c.Lifetime.D(), MaxMessage: int64(c.MaxMessage), MaxFrame: int64(c.MaxFrame),
	}
	if l == (exchange.TunnelLimits{}) {
		return nil, &policy.Fault{Text: "no limit is set", Hint: "give it max_message, max_frame, idle or lifetime"}
	}
	return &bounds{limits: l}, nil
}

var (
	_ policy.OnRequest  = (*bounds)(nil)
	_ policy.OnResponse = (*bounds)(nil)
)

// bounds leaves limits with exchanges.
type bounds struct{ limits exchange.TunnelLimits }

func (b *bounds) Request(x *exchange.Exchange) policy.Verdict {
	if x.Request.Upgrade != "" {
		x.Tunnel = b.limits
	}
	return policy.Next
}

// Response takes the limits of messages off what is no WebSocket. What the
// client asked for does not tell: it may have named several protocols.
func (b *bounds) Response(x *exchange.Exchange) {
	if x.Response.Status != 101 {
		return
	}
	switched := cmp.Or(x.Response.Header.Known(exchange.Upgrade), x.Request.Upgrade)
	for protocol := range exchange.Tokens(switched) {
		if name, _, _ := strings.Cut(protocol, "/"); exchange.EqualFold(name, "websocket") {
			return
		}
	}
	x.Tunnel.MaxMessage, x.Tunnel.MaxFrame = 0, 0
}
