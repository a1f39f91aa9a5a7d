package cors

import (
	"slices"
	"strings"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

var (
	_ policy.OnRequest  = (*answerer)(nil)
	_ policy.OnResponse = (*answerer)(nil)
	_ policy.Preflights = (*answerer)(nil)
)

// answerer answers preflights and marks the answers to what they allow.
type answerer struct {
	any       bool
	exact     map[string]struct{}
	patterns  []pattern
	methods   []string
	anyMethod bool
	headers   []string // lower case, sorted
	anyHeader bool
	expose    string
	maxAge    string

	credentials bool
}

// Preflights says that requests which ask for leave are answered here.
func (*answerer) Preflights() {}

// pattern is an origin with a wildcard.
type pattern struct {
	prefix  string // scheme://
	host    string // of a wild one: what follows the labels, with its dot
	port    string // :port, "" for the usual one
	wild    bool
	anyPort bool
}

// longestOrigin is more than scheme, host and port can have.
const longestOrigin = 300

func (a *answerer) allows(origin string) bool {
	if a.any {
		return true
	}
	if len(origin) > longestOrigin {
		return false
	}
	if _, ok := a.exact[origin]; ok {
		return true
	}
	for i := range a.patterns {
		if a.patterns[i].matches(origin) {
			return true
		}
	}
	return false
}

func (p *pattern) matches(origin string) bool {
	rest, ok := strings.CutPrefix(origin, p.prefix)
	if !ok {
		return false
	}
	if p.anyPort {
		if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, ']') {
			if port := rest[i+1:]; port == "" || len(port) > 5 || strings.Trim(port, "0123456789") != "" {
				return false
			}
			rest = rest[:i]
		}
	} else if rest, ok = strings.CutSuffix(rest, p.port); !ok {
		return false
	}
	if !p.wild {
		return rest == p.host
	}
	labels, ok := strings.CutSuffix(rest, p.host)
	return ok && isHost(labels)
}

// Request answers a preflight: OPTIONS with an origin and the method that is
// asked for (Fetch, section 4.8). Anything else goes on.
func (a *answerer) Request(x *exchange.Exchange) policy.Verdict {
	h := &x.Request.Header
	if x.Request.Method != "OPTIONS" || !h.Has(exchange.Origin) {
		return policy.Next
	}
	method, ok := h.Lookup("Access-Control-Request-Method")
	if !ok {
		return policy.Next
	}
	origin := h.Known(exchange.Origin)
	headers := a.requested(h)
	if h.Count(exchange.Origin) > 1 || !a.allows(origin) || !a.takes(method) || headers == nil {
		x.Fail(&refused)
		return policy.Stop
	}
	r := &x.Response
	r.Reset()
	r.Status, r.Local = 204, true
	if !a.simple(method) {
		r.Header.Add("Access-Control-Allow-Methods", method)
	}
	if *headers != "" {
		r.Header.Add("Access-Control-Allow-Headers", *headers)
	}
	r.Header.Add("Access-Control-Max-Age", a.maxAge)
	return policy.Stop
}

// simple methods need no leave.
func (*answerer) simple(method string) bool {
	return method == "GET" || method == "HEAD" || method == "POST"
}

func (a *answerer) takes(method string) bool {
	return a.simple(method) || a.anyMethod && policy.IsToken(method) || slices.Contains(a.methods, method)
}

// mostRequested bounds how many names a preflight may ask for.
const mostRequested = 100

// requested returns the field names that a preflight asks for when all are
// allowed, nil when one is not. Browsers send them in lower case and sorted;
// what they are told back is what they asked for.
func (a *answerer) requested(h *exchange.Header) *string {
	out, n := "", 0
	for line := range h.Values("Access-Control-Request-Headers") {
		for name := range exchange.Tokens(line) {
			if n++; n > mostRequested || !a.field(name) {
				return nil
			}
		}
		if out != "" {
			out += ", "
		}
		out += line
	}
	return &out
}

func (a *answerer) field(name string) bool {
	name = strings.ToLower(name)
	if _, ok := slices.BinarySearch(a.headers, name); ok {
		return true
	}
	// A token that proves who asks is never given away by a wildcard.
	return a.anyHeader && name != "authorization" && policy.IsToken(name)
}

// Response marks an answer. What the service says about CORS is replaced: two
// opinions are none for a browser.
func (a *answerer) Response(x *exchange.Exchange) {
	q, h := &x.Request.Header, &x.Response.Header
	preflight := x.Response.Local && x.Response.Status == 204 && x.Request.Method == "OPTIONS" && x.Problem == nil
	if !preflight {
		h.DelFunc(func(f *exchange.Field) bool {
			return f.Known == exchange.Other && len(f.Name) > len(namespace) && exchange.EqualFold(f.Name[:len(namespace)], namespace)
		})
	}
	a.vary(x)
	origin := q.Known(exchange.Origin)
	switch {
	case a.any:
		// Also where no page asks: what a cache keeps is for all (Fetch,
		// "CORS protocol and HTTP caches").
		origin = "*"
	case origin == "" || q.Count(exchange.Origin) > 1 || !a.allows(origin):
		return
	}
	h.Add("Access-Control-Allow-Origin", origin)
	if a.credentials {
		h.Add("Access-Control-Allow-Credentials", "true")
	}
	if a.expose != "" && !preflight {
		h.Add("Access-Control-Expose-Headers", a.expose)
	}
}

const namespace = "Access-Control-"

// vary keeps caches from giving one origin's answer to another.
func (a *answerer) vary(x *exchange.Exchange) {
	h := &x.Response.Header
	if x.Request.Method == "OPTIONS" {
		varyOn(h, "Access-Control-Request-Headers")
		varyOn(h, "Access-Control-Request-Method")
	}
	if !a.any {
		varyOn(h, "Origin")
	}
}

func varyOn(h *exchange.Header, name string) {
	for v := range h.Values("Vary") {
		if exchange.HasToken(v, name) || exchange.HasToken(v, "*") {
			return
		}
	}
	h.AddKnown(exchange.Vary, name)
}
