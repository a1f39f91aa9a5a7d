package gateway

import (
	"strings"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

// plainly is what happens to requests that came without TLS before any route is
// looked for. It is nil when there is nothing.
type plainly struct {
	challenge func(host, path string) (answer string, ok bool) // nil when no certificate is obtained that way
	answered  *plan                                            // for what challenge answers; no policy stands before it
	redirects map[string]*plan                                 // by listener
}

// challengePath is where an ACME authority asks (RFC 8555, section 8.3).
const challengePath = "/.well-known/acme-challenge/"

// plan returns what serves a request in place of its route, or nil.
func (p *plainly) plan(x *exchange.Exchange) *plan {
	r := &x.Request
	if p == nil || x.Client.TLS != nil {
		return nil
	}
	if p.challenge != nil && strings.HasPrefix(r.Path, challengePath) {
		if answer, ok := p.challenge(r.Host, r.Path); ok {
			q := *p.answered
			q.end = &respondEnd{status: 200, body: []byte(answer), fields: []exchange.Field{
				{Name: "Content-Type", Value: "text/plain", Known: exchange.ContentType},
			}}
			return &q
		}
	}
	// A trusted proxy may have taken TLS off.
	if r.Header.Known(exchange.XForwardedProto) == "https" {
		return nil
	}
	return p.redirects[x.Client.Listener]
}

// plainly compiles what listeners without TLS do by themselves.
func (c *compiler) plainly(top []compiled) *plainly {
	p := &plainly{redirects: make(map[string]*plan)}
	for i, l := range c.cfg.Listeners {
		if l.TLS != nil && l.TLS.ACME != nil {
			p.challenge = c.g.deps.Challenge
			p.answered = c.plan("acme", nil)
		}
		if l.RedirectHTTPS && l.TLS == nil {
			p.redirects[l.Name] = c.toHTTPS(top, c.listeners[i])
		}
	}
	if p.challenge == nil && len(p.redirects) == 0 {
		return nil
	}
	return p
}

// toHTTPS makes the plan of redirect_https. Only what looks at the connection
// and what reports takes part: credentials that came without TLS are better not
// looked at.
func (c *compiler) toHTTPS(levels ...[]compiled) *plan {
	kept := make([][]compiled, len(levels))
	for i, level := range levels {
		for _, one := range level {
			if one.stage == policy.Edge || one.stage == policy.Report {
				kept[i] = append(kept[i], one)
			}
		}
	}
	return c.plan("redirect_https", &httpsEnd{port: httpsPort(c.cfg.HTTPS())}, kept...)
}

// httpsPort returns what follows the host in a URL of the listener: nothing for
// the usual port.
func httpsPort(l *config.Listener) string {
	if l == nil {
		return ""
	}
	if port := l.Address[strings.LastIndexByte(l.Address, ':')+1:]; port != "443" && !strings.HasPrefix(l.Address, "unix:") {
		return ":" + port
	}
	return ""
}

// httpsEnd sends clients to the same URL with https.
type httpsEnd struct{ port string }

func (e *httpsEnd) serve(x *exchange.Exchange) {
	r := &x.Request
	if r.Host == "" { // HTTP/1.0 has no need of one
		x.Fail(&noHost)
		return
	}
	target := "https://" + r.Host + e.port + r.Path
	if r.HasQuery {
		target += "?" + r.Query
	}
	x.Response.Status = 308
	x.Response.Header.AddKnown(exchange.Location, target)
	x.Response.SetBody(nil)
}
