package gateway

import (
	"errors"
	"fmt"
	"strings"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/observe"
)

// connector is an Upstream that takes connections as they are.
type connector interface {
	// Connect opens a connection to the service, or fails x.
	Connect(x *exchange.Exchange) exchange.Tunnel
}

// passing says where the connections of one listener go.
type passing struct {
	exact, wild map[string]connector // by the name that the client asks for, and by what follows the *
	other       connector            // what no route takes, nil to close it
	meter       *observe.Listener
}

// find returns where a connection for a name goes. The exact name comes first,
// then the longest wildcard.
func (p *passing) find(name string) connector {
	if name == "" {
		return p.other
	}
	if c := p.exact[name]; c != nil {
		return c
	}
	for rest := name; len(p.wild) > 0; {
		i := strings.IndexByte(rest[1:], '.')
		if i < 0 {
			break
		}
		rest = rest[1+i:]
		if c := p.wild[rest]; c != nil {
			return c
		}
	}
	return p.other
}

// Pass joins a client's connection with an upstream of its listener, byte by
// byte and unopened, until both have ended. x.Request.Host is the name that the
// client asks for by TLS, where it does. A connection that comes with a
// problem, or meets one, is reported as its only effect: then client was not
// touched. Of the policies only those that report see it.
func (g *Gateway) Pass(x *exchange.Exchange, client exchange.Stream) {
	s := g.live.Load()
	pl := s.passing[x.Client.Listener]
	g.join(pl, x, client)
	x.Times.End = exchange.Now()
	if pl != nil {
		pl.meter.Moved(x.Client.Shard, x.Request.Received, x.Response.Sent)
		if x.Problem != nil {
			pl.meter.Failed(x.Client.Shard)
		}
	}
	x.Route.Name, x.Route.Index = "", -1
	g.report(s.unmatched[0], x, 0)
}

func (g *Gateway) join(pl *passing, x *exchange.Exchange, client exchange.Stream) {
	defer g.contain(x)
	if x.Problem != nil {
		return
	}
	if pl == nil {
		x.Fail(&notConfigured)
		return
	}
	to := pl.find(x.Request.Host)
	if to == nil {
		x.Fail(&noPassage)
		return
	}
	t := to.Connect(x)
	if t == nil {
		return
	}
	x.Response.HeadSent = true // the client's stream is the tunnel's from here on
	if err := t.Join(x, client); err != nil {
		x.Response.Truncated = true
		var own *exchange.Problem
		switch {
		case errors.As(err, &own):
		case errors.Is(err, exchange.ErrClientGone):
			own = clientGone.With(err)
		default:
			own = passageBroke.With(err)
		}
		x.Fail(own)
	}
}

// passages compiles the listeners that open nothing.
func (c *compiler) passages() {
	for i, l := range c.cfg.Listeners {
		if l == nil || l.Protocol != "tcp" && l.Protocol != "tls" {
			continue // nil is what could not be read: that is told already
		}
		at := fmt.Sprintf("listeners[%d]", i)
		p := &passing{exact: make(map[string]connector), wild: make(map[string]connector), meter: c.g.deps.Metrics.Listener(l.Name)}
		if l.Upstream != "" {
			p.other = c.connector(at+".upstream", l.Upstream)
		}
		for j, r := range l.Routes {
			if r == nil {
				continue
			}
			to := c.connector(fmt.Sprintf("%s.routes[%d].upstream", at, j), r.Upstream)
			for _, name := range r.SNI {
				name = strings.ToLower(strings.TrimSuffix(name, "."))
				if suffix, ok := strings.CutPrefix(name, "*"); ok {
					p.wild[suffix] = to
				} else {
					p.exact[name] = to
				}
			}
		}
		if c.s.passing == nil {
			c.s.passing = make(map[string]*passing)
		}
		c.s.passing[l.Name] = p
	}
}

func (c *compiler) connector(path, name string) connector {
	u := c.upstream(path, name)
	if u == nil {
		return nil
	}
	to, ok := u.(connector)
	if !ok {
		c.fault(path, fmt.Sprintf("upstream %q does not take connections", name), "")
		return nil
	}
	return to
}
