package app

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/gateway"
	"gatehouse.dev/gatehouse/internal/h1"
)

// Question is a request that is to be explained.
type Question struct {
	Method   string
	URL      string   // absolute, or from its path on
	Fields   []string // "Name: value"
	Client   netip.Addr
	Listener string // name of the listener, "" for the first that fits the URL
}

// Explanation says what would become of a request.
type Explanation struct {
	Request Asked `json:"request"`
	gateway.Explanation
}

// Asked is the request as the gateway sees it.
type Asked struct {
	Method   string   `json:"method"`
	URL      string   `json:"url"`
	Client   string   `json:"client"`
	Listener string   `json:"listener"`
	TLS      bool     `json:"tls"`
	Others   []string `json:"other_listeners"` // which take requests as well
}

// Explain says what would become of a request: nothing is sent, and nobody
// asked. The faults are those of the configuration; without an explanation one
// of them is none that can be overlooked. An error is of the question.
func Explain(source Source, q Question) (*Explanation, config.Faults, error) {
	cfg, faults := source.load()
	if faults.Fatal() {
		return nil, examine(cfg, faults), nil
	}
	l, others, err := q.listener(cfg.Listeners)
	if err != nil {
		return nil, nil, err
	}
	x, problem, err := q.exchange(l)
	if err != nil {
		return nil, nil, err
	}
	defer exchange.Put(x)
	out := &Explanation{Request: Asked{
		Method: q.Method, URL: x.Request.Scheme + "://" + x.Request.Authority + x.Request.RawPath, Client: q.Client.String(),
		Listener: l.Name, TLS: l.TLS != nil, Others: others,
	}}
	if problem != nil { // what a protocol refuses is never matched
		out.Request.URL, _, _ = strings.Cut(q.URL, "?")
		out.Explanation = gateway.Refused(problem)
	}
	faults = append(faults, compile(cfg, func(p *gateway.Pending) {
		if problem == nil {
			out.Explanation = *p.Explain(x)
		}
	})...)
	faults.Sort()
	if faults.Fatal() {
		return nil, faults, nil
	}
	return out, faults, nil
}

// target divides the URL. The path is left as it is: whether it is a valid one
// is the gateway's question.
func (q *Question) target() (scheme, authority, target string, err error) {
	rest, _, _ := strings.Cut(q.URL, "#")
	scheme = "http"
	if before, after, ok := strings.Cut(rest, "://"); ok {
		if scheme = strings.ToLower(before); scheme != "http" && scheme != "https" {
			return "", "", "", fmt.Errorf("%q is not a URL of http or https", q.URL)
		}
		rest = after
	}
	i := strings.IndexAny(rest, "/?")
	if i < 0 {
		i = len(rest)
	}
	authority, target = rest[:i], rest[i:]
	if target == "" || target[0] == '?' {
		target = "/" + target
	}
	if authority == "" {
		authority = "localhost"
	}
	if strings.ContainsAny(authority+target, " \t\r\n") {
		return "", "", "", fmt.Errorf("%q is not a URL: it holds a space", q.URL)
	}
	return scheme, authority, target, nil
}

// listener returns the listener that takes the request, and the names of the
// others that take requests. By a URL of https that is one with TLS; where there
// is none, something in front of the gateway has taken TLS off.
func (q *Question) listener(all []*config.Listener) (l *config.Listener, others []string, err error) {
	scheme, authority, _, err := q.target()
	if err != nil {
		return nil, nil, err
	}
	port := map[string]string{"http": "80", "https": "443"}[scheme]
	if i := strings.LastIndexByte(authority, ':'); i >= 0 && !strings.HasSuffix(authority, "]") {
		port = authority[i+1:]
	}
	best := -1
	for _, one := range all {
		if one.Protocol == "tcp" || one.Protocol == "tls" {
			continue
		}
		score := 0
		if (one.TLS != nil) == (scheme == "https") {
			score = 1
		}
		if strings.HasSuffix(one.Address, ":"+port) {
			score += 2
		}
		if q.Listener != "" && one.Name != q.Listener {
			score = -1
		}
		others = append(others, one.Name)
		if score > best {
			l, best = one, score
		}
	}
	switch {
	case l == nil && q.Listener != "":
		return nil, nil, fmt.Errorf("no listener named %q takes requests", q.Listener)
	case l == nil:
		return nil, nil, errors.New("no listener takes requests")
	}
	return l, slices.DeleteFunc(others, func(name string) bool { return name == l.Name }), nil
}

// exchange makes the request as the engine of a listener would from what a
// client sends. The problem is why that engine refuses it.
func (q *Question) exchange(l *config.Listener) (*exchange.Exchange, *exchange.Problem, error) {
	_, host, target, err := q.target()
	if err != nil {
		return nil, nil, err
	}
	if q.Method == "" || strings.ContainsAny(q.Method, " \t\r\n") {
		return nil, nil, fmt.Errorf("%q is not a method", q.Method)
	}
	var fields strings.Builder
	for _, f := range q.Fields {
		name, value, ok := strings.Cut(f, ":")
		if !ok || name == "" || strings.ContainsAny(f, "\r\n") {
			// The text may be a credential, which shells and terminals keep
			// long enough.
			return nil, nil, errors.New("a field of the request is not written as 'Name: value'")
		}
		if exchange.EqualFold(name, "Host") {
			host = strings.TrimSpace(value)
			continue
		}
		fields.WriteString(name + ": " + strings.TrimSpace(value) + "\r\n")
	}
	x := exchange.Get()
	r := &x.Request
	head := q.Method + " " + target + " HTTP/1.1\r\nHost: " + host + "\r\n" + fields.String() + "\r\n"
	_, problem := h1.ParseRequest([]byte(head), r, l.Limits.Headers)
	r.Body = exchange.NoBody
	r.Scheme = "http"
	addr := netip.AddrPortFrom(q.Client.Unmap().WithZone(""), 40000)
	c := &exchange.Client{
		Addr: addr, Peer: addr, IP: addr.Addr().String(), Listener: l.Name, Proxies: l.TrustedProxies,
		Trusted: slices.ContainsFunc(l.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(addr.Addr()) }),
	}
	if i := strings.LastIndexByte(l.Address, ':'); i >= 0 && !strings.HasPrefix(l.Address, "unix:") {
		c.Port = l.Address[i+1:]
	}
	if l.TLS != nil {
		r.Scheme = "https"
		c.TLS = &exchange.TLS{ServerName: r.Host, Version: 0x0304}
	}
	x.Client = c
	x.Times.Start = exchange.Now()
	return x, problem, nil
}
