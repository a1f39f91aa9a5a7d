package config

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"gatehouse.dev/gatehouse/internal/policy"
)

// service checks the settings of an upstream that need more than a look at one
// value.
func (k *checker) service(at string, u *Upstream) {
	if u.Balance.Algorithm == "hash" && u.Balance.Hash == "" {
		k.fault(at+".balance", "nothing says what to hash", "write { hash: header:X-User }")
	}
	if h := u.Balance.Hash; h != "" && !isHash(h) && !isExpression(h) {
		k.fault(at+".balance.hash", quote(h)+" does not say what to hash", "write header:NAME, cookie:NAME, query:NAME or client")
	}
	if f := u.Timeout.Field; f != "" && !policy.IsToken(f) {
		k.fault(at+".timeout.field", quote(f)+" is not a field name", "")
	}
	if s := u.Sticky; s != nil {
		if s.Cookie != "" && !policy.IsToken(s.Cookie) {
			k.fault(at+".sticky.cookie", quote(s.Cookie)+" is not the name of a cookie", "use letters, digits, - and _")
		}
		if s.Path == "" || s.Path[0] != '/' || strings.ContainsFunc(s.Path, func(r rune) bool { return r <= ' ' || r == ';' || r >= 0x7f }) {
			k.fault(at+".sticky.path", quote(s.Path)+" is not a path of a cookie", "write /")
		}
	}
	k.retry(at+".retry", u.Retry)
	if h := u.Hedge; h != nil && !isDelay(h.After) {
		k.fault(at+".hedge.after", quote(h.After)+" is neither a duration nor a percentile from p50 to p99", "write 100ms or p95")
	}
	k.health(at+".health", u.Health)
	if b := u.Breaker; b != nil && b.Slow == 0 && b.ErrorRate == 0 {
		k.fault(at+".breaker", "the breaker never opens", "give it an error_rate or slow")
	}
	if o := u.Outlier; o != nil && o.EjectMax < o.Eject {
		k.fault(at+".outlier.eject_max", "the longest ejection is shorter than the first", "")
	}
	if c := u.Concurrency; c != nil {
		switch {
		case c.Max == 0 && !c.Adaptive:
			k.fault(at+".concurrency", "nothing bounds the requests", "give it a max, or make it adaptive")
		case c.Max > 0 && c.Min > c.Max:
			k.fault(at+".concurrency.min", "the lowest limit is above max", "")
		}
	}
	if u.Queue != nil && u.Concurrency == nil && u.Connections.Max == 0 && u.Connections.MaxPerEndpoint == 0 {
		k.warn(at+".queue", "nothing ever waits: no limit is set", "set concurrency.max or connections.max")
	}
	k.discovery(at+".discovery", u.Discovery)
}

// GRPCCode returns the number of a status code of gRPC ("Status codes and their
// use in gRPC"), and whether there is one of that name.
func GRPCCode(name string) (code int, known bool) {
	code = slices.Index([]string{
		"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
		"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
		"UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
	}, name)
	return code, code >= 0
}

func (k *checker) retry(at string, r *Retry) {
	if r == nil {
		return
	}
	calls := false
	for i, on := range r.On {
		status, err := strconv.Atoi(on)
		if code, isCode := GRPCCode(on); isCode && code > 0 {
			calls = true
			continue
		}
		if !slices.Contains([]string{"connect", "reset", "timeout", "malformed"}, on) && (err != nil || status < 400 || status > 599) {
			k.fault(fmt.Sprintf("%s.on[%d]", at, i), quote(on)+" is no reason for another attempt", "write connect, reset, timeout, malformed, a status from 400 to 599, or one of gRPC such as UNAVAILABLE")
		}
	}
	for i, m := range r.Methods {
		if !policy.IsToken(m) || strings.ToUpper(m) != m {
			k.fault(fmt.Sprintf("%s.methods[%d]", at, i), quote(m)+" is not a method", "")
		}
	}
	if calls && !slices.Contains(r.Methods, "POST") {
		k.warn(at+".on", "no call of gRPC is sent again: each is a POST, which methods does not list", "add POST to methods, if no other POST can come or to send it twice is harmless")
	}
	if r.Backoff.Max < r.Backoff.Base {
		k.fault(at+".backoff.max", "the longest wait is shorter than the first", "")
	}
}

func (k *checker) health(at string, h *Health) {
	if h == nil {
		return
	}
	if !strings.HasPrefix(h.Path, "/") || strings.ContainsFunc(h.Path, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '#' }) {
		k.fault(at+".path", quote(h.Path)+" is not a path", "write /healthz")
	}
	if h.Service != "" && h.Type != "grpc" {
		k.fault(at+".service", "only a check of type grpc asks for a service", "add type: grpc")
	}
	if len(h.Service) > 1024 || strings.ContainsFunc(h.Service, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		k.fault(at+".service", quote(h.Service)+" is not the name of a service", "write shop.v1.Products")
	}
	if h.Host != "" {
		k.report(at+".host", checkHostPort(h.Host))
	}
	if len(h.Expect) == 0 {
		k.fault(at+".expect", "no status means healthy", "write [200-399]")
	}
	for i, e := range h.Expect {
		if _, _, ok := StatusRange(e); !ok {
			k.fault(fmt.Sprintf("%s.expect[%d]", at, i), quote(e)+" is not a status or a range of them", "write 200 or 200-399")
		}
	}
}

// notAdmin reports an endpoint that is the admin address: what it shows is not
// for whoever can reach a route.
func (k *checker) notAdmin(path, url string) {
	a := k.c.Admin
	if a == nil || a.Off || k.known["admin"] {
		return
	}
	scheme, rest, _ := strings.Cut(url, "://")
	rest = strings.TrimSuffix(rest, "/")
	same := rest == a.Address
	host, port, err := net.SplitHostPort(rest)
	if err != nil {
		host, port, err = net.SplitHostPort(rest + ":" + defaultPort(scheme))
	}
	if own, ownPort, ownErr := net.SplitHostPort(a.Address); err == nil && ownErr == nil && port == ownPort && port != "0" {
		same = strings.EqualFold(strings.TrimSuffix(host, "."), strings.TrimSuffix(own, ".")) || thisMachine(host) && thisMachine(own)
	}
	if same {
		k.fault(path, quote(url)+" is the admin address, which no route may lead to", "")
	}
}

// thisMachine reports whether a host, as it stands, is loopback or every
// address of the machine.
func thisMachine(host string) bool {
	a, err := netip.ParseAddr(host)
	if err != nil {
		return host == "" || strings.EqualFold(strings.TrimSuffix(host, "."), "localhost")
	}
	return a.Unmap().IsLoopback() || a.IsUnspecified()
}

// StatusRange reads "200" or "200-399".
func StatusRange(s string) (from, to int, ok bool) {
	a, b, ranged := strings.Cut(s, "-")
	if !ranged {
		b = a
	}
	from, err := strconv.Atoi(a)
	to, err2 := strconv.Atoi(b)
	return from, to, err == nil && err2 == nil && 100 <= from && from <= to && to <= 599
}

// isDelay tells whether s is what hedge.after takes.
func isDelay(s string) bool {
	if digits, ok := strings.CutPrefix(s, "p"); ok {
		n, err := strconv.Atoi(digits)
		return err == nil && 50 <= n && n <= 99 && len(digits) == 2
	}
	var d Duration
	return d.UnmarshalText([]byte(s)) == nil && d > 0
}

func (k *checker) discovery(at string, d *Discovery) {
	if d == nil {
		return
	}
	var set []string
	for _, one := range []struct {
		key string
		set bool
	}{{"dns", d.DNS != ""}, {"srv", d.SRV != ""}, {"file", d.File != ""}, {"consul", d.Consul != nil}, {"kubernetes", d.Kubernetes != nil}} {
		if one.set || k.known[at+"."+one.key] {
			set = append(set, one.key)
		}
	}
	switch {
	case len(set) == 0 && !k.known[at]:
		k.fault(at, "nothing says where endpoints are found", "give one of dns, srv, file, consul and kubernetes")
	case len(set) > 1:
		k.fault(at+"."+set[1], fmt.Sprintf("discovery has %s as well as %s", set[1], set[0]), "use two upstreams and a split, or failover")
	}
	if d.DNS != "" {
		k.report(at+".dns", checkDialed(d.DNS))
	}
	if d.SRV != "" {
		k.report(at+".srv", checkHost(d.SRV, d.SRV))
	}
	if c := d.Consul; c != nil {
		k.report(at+".consul.address", checkAPI(c.Address))
	}
	if c := d.Kubernetes; c != nil && c.API != "" {
		k.report(at+".kubernetes.api", checkAPI(c.API))
	}
}

// checkDialed checks host:port.
func checkDialed(s string) *policy.Fault {
	if isURL(s) {
		return &policy.Fault{Text: quote(s) + " is not host:port", Hint: "leave out the scheme; scheme: https sets it"}
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil || host == "" || !isPort(port) || port == "0" {
		return &policy.Fault{Text: quote(s) + " is not host:port", Hint: "write products.internal:8080"}
	}
	return checkHost(s, host)
}

// checkAPI checks the URL of an HTTP API.
func checkAPI(s string) *policy.Fault {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return &policy.Fault{Text: "this is not the URL of an API", Hint: "write http://host:port, without user, password and query"}
	}
	return nil
}

// failovers checks that each upstream that serves instead of another is there
// and that none comes to serve instead of itself.
func (k *checker) failovers(used map[string]bool) {
	for _, name := range slices.Sorted(maps.Keys(k.c.Upstreams)) {
		u := k.c.Upstreams[name]
		if u == nil || u.Failover == "" {
			continue
		}
		at := keyed("upstreams", name) + ".failover"
		k.upstream(at, u.Failover, used)
		seen := map[string]bool{name: true}
		for next := u.Failover; next != ""; {
			if seen[next] {
				k.fault(at, fmt.Sprintf("upstream %s comes to serve instead of itself", quote(name)), "")
				break
			}
			seen[next] = true
			v := k.c.Upstreams[next]
			if v == nil {
				break
			}
			next = v.Failover
		}
	}
}
