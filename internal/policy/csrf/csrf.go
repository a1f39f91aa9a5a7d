// Package csrf is the policy that refuses requests which another site made a
// browser send. It owns the reading of Sec-Fetch-Site and Origin, which pages
// cannot forge, and needs no tokens.
package csrf

import (
	"errors"
	"fmt"
	"strings"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Kind is the kind "csrf".
func Kind() *policy.Kind {
	return &policy.Kind{
		Name: "csrf", Stage: policy.Edge,
		New: func() policy.Config { return &Config{} },
		Doc: "Refuses requests that another site made a browser send.",
	}
}

// Config says whose requests are taken. GET, HEAD and OPTIONS, which must not
// change anything, are not looked at, unless they open a WebSocket.
type Config struct {
	// Other origins whose pages may send requests.
	TrustedOrigins policy.StringList `yaml:"trusted_origins" example:"https://admin.example.com"`
	// Take requests from other hosts of the same site as well, for example from www.example.com to api.example.com.
	SameSite bool `yaml:"same_site"`
	// Refuse requests with cookies that have neither Sec-Fetch-Site nor Origin. Browsers from before 2020 send such.
	Strict bool `yaml:"strict"`
	// Only log what would be refused.
	DryRun bool `yaml:"dry_run"`
}

// Compile checks the origins.
func (c *Config) Compile(env *policy.Env) (policy.Policy, error) {
	g := &guard{trusted: make(map[string]bool), sameSite: c.SameSite, strict: c.Strict}
	if c.DryRun {
		g.tell = policy.NewTeller(env)
	}
	var faults []error
	for i, o := range c.TrustedOrigins {
		scheme, host, ok := strings.Cut(o, "://")
		if !ok || scheme != "https" && scheme != "http" || host == "" || strings.ContainsAny(host, "/?#@* ") || strings.ToLower(o) != o {
			faults = append(faults, &policy.Fault{Field: fmt.Sprintf("trusted_origins[%d]", i), Text: fmt.Sprintf("%q is not an origin", o), Hint: "write https://host in lower case, with the port where it is not the usual one"})
		} else if bare, usual := strings.CutSuffix(o, usual(scheme)); usual {
			faults = append(faults, &policy.Fault{Field: fmt.Sprintf("trusted_origins[%d]", i), Text: fmt.Sprintf("%q never matches: browsers leave the usual port out", o), Hint: "write " + bare})
		}
		g.trusted[o] = true
	}
	return g, errors.Join(faults...)
}

var refused = exchange.Problem{
	Status: 403, Code: "cross_site_refused", Side: exchange.SideClient,
	Detail: "The request was sent by a page of another site.",
}

var _ policy.OnRequest = (*guard)(nil)

type guard struct {
	trusted  map[string]bool
	sameSite bool
	strict   bool
	tell     *policy.Teller // of a dry run
}

func (g *guard) Request(x *exchange.Exchange) policy.Verdict {
	if g.takes(x) {
		return policy.Next
	}
	if g.tell != nil {
		g.tell.Spared(policy.DryRun, "a request of another site was let through by dry_run", "request_id", x.RequestID(), "origin", x.Request.Header.Known(exchange.Origin))
		return policy.Next
	}
	x.Fail(&refused)
	return policy.Stop
}

// takes decides by what the browser says of the page (Fetch Metadata), or by
// the page's origin. What is repeated is not believed.
func (g *guard) takes(x *exchange.Exchange) bool {
	r := &x.Request
	switch r.Method {
	case "GET", "HEAD", "OPTIONS":
		// Browsers let any page open a WebSocket, with cookies, and read it:
		// the server has to look at the origin (RFC 6455, section 10.2).
		if r.Upgrade == "" {
			return true
		}
	}
	h := &r.Header
	origin := h.Known(exchange.Origin)
	if h.Count(exchange.Origin) > 1 {
		return false
	}
	if origin != "" && g.trusted[origin] {
		return true
	}
	sites := 0
	site := ""
	for v := range h.Values("Sec-Fetch-Site") {
		site = v
		sites++
	}
	switch {
	case sites > 1:
		return false
	case site == "same-origin" || site == "none":
		return true
	case site == "same-site":
		return g.sameSite
	case sites == 1:
		return false
	case origin == "":
		return !g.strict || !h.Has(exchange.Cookie)
	}
	// A browser without Fetch Metadata: its page has to be of this host.
	scheme, host, ok := strings.Cut(origin, "://")
	return ok && scheme == r.Scheme && exchange.EqualFold(host, strings.TrimSuffix(r.Authority, usual(r.Scheme)))
}

func usual(scheme string) string {
	if scheme == "https" {
		return ":443"
	}
	return ":80"
}
