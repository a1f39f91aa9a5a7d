package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"gatehouse.dev/gatehouse/internal/policy"
)

// checker looks at a decoded configuration as a whole. Where decoding found a
// fault it does not look again, so that one mistake is reported once.
type checker struct {
	c      *Config
	known  map[string]bool // paths that have a fault, and all their parents
	faults Faults
}

// check returns the faults of a configuration that has its names. What a
// router or a policy must compile to know is left to them.
func check(c *Config, found Faults) Faults {
	k := &checker{c: c, known: make(map[string]bool)}
	for _, f := range found {
		steps := splitPath(f.Path)
		for i := range steps {
			k.known[joinPath(steps[:i+1])] = true
		}
	}
	k.redis()
	used := k.routes()
	k.failovers(used)
	k.listeners(used)
	k.upstreams(used)
	k.consumers()
	if c.Admin != nil && !c.Admin.Off && !k.known["admin"] {
		k.report("admin.address", checkAddress(c.Admin.Address))
	}
	return k.faults
}

func (k *checker) fault(path, text, hint string) {
	if len(k.faults) <= mostFaults {
		k.faults = append(k.faults, k.c.Fault(path, text, hint))
	}
}

func (k *checker) warn(path, text, hint string) {
	k.fault(path, text, hint)
	k.faults[len(k.faults)-1].Warning = true
}

func (k *checker) report(path string, f *policy.Fault) {
	if f != nil {
		k.fault(path, f.Text, f.Hint)
	}
}

// place names another place of the configuration.
func (k *checker) place(path string) string { return k.c.Fault(path, "", "").place() }

func (k *checker) listeners(used map[string]bool) {
	names, addresses := make(map[string]string), make(map[string]string)
	for i, l := range k.c.Listeners {
		at := fmt.Sprintf("listeners[%d]", i)
		if l == nil {
			continue
		}
		k.listener(at, l, used)
		if k.known[at+".address"] || l.Address == "" {
			continue
		}
		k.report(at+".address", checkAddress(l.Address))
		if a := k.c.Admin; a != nil && !a.Off && a.Address == l.Address && !strings.HasSuffix(l.Address, ":0") {
			k.fault(at+".address", quote(l.Address)+" is the admin address too", "choose another, or write \"admin: off\"")
		}
		if first, ok := addresses[l.Address]; ok {
			k.fault(at+".address", fmt.Sprintf("%s is taken twice, first at %s", quote(l.Address), k.place(first)), "")
		} else if !strings.HasSuffix(l.Address, ":0") {
			addresses[l.Address] = at + ".address"
		}
		k.name(at, l.Name, l.Name == l.Address, names)
	}
}

// name checks a name, and that no other has it. Names that follow from the
// rest are right by themselves.
func (k *checker) name(at, name string, derived bool, names map[string]string) {
	if first, ok := names[name]; ok {
		k.fault(at+".name", fmt.Sprintf("name %s stands twice, first at %s", quote(name), k.place(first+".name")), "")
		return
	}
	names[name] = at
	if derived || k.known[at+".name"] {
		return
	}
	switch bad := strings.IndexFunc(name, func(r rune) bool { return !nameRune(r) }); {
	case bad >= 0 || strings.TrimSpace(name) != name:
		k.fault(at+".name", fmt.Sprintf("%s is not a name: it holds what cannot be printed, a quote, a backslash, or a space at an end", quote(name)), "")
	case len([]rune(name)) > mostName:
		k.fault(at+".name", fmt.Sprintf("a name has at most %d characters", mostName), "")
	}
}

func (k *checker) upstreams(used map[string]bool) {
	for _, name := range slices.Sorted(maps.Keys(k.c.Upstreams)) {
		at := joinPath([]step{{key: "upstreams", index: -1}, {key: name, index: -1}})
		if name[0] == '-' || !plainKey(strings.ReplaceAll(name, ".", "_")) || len(name) > 63 {
			k.fault(at, fmt.Sprintf("%s is not a name of an upstream", quote(name)), "use at most 63 letters, digits, dots, - and _")
		}
		u := k.c.Upstreams[name]
		if u == nil {
			continue
		}
		if !used[name] && !k.known["routes"] && len(k.c.Routes) > 0 {
			k.warn(at, fmt.Sprintf("no route uses upstream %s", quote(name)), "")
		}
		k.service(at, u)
		if len(u.Endpoints) == 0 && u.Discovery == nil && !k.known[at] && !k.known[at+".endpoints"] && !k.known[at+".discovery"] {
			k.fault(at+".endpoints", "an upstream needs endpoints, or discovery", "write http://host:port")
		}
		k.upstreamTLS(at, u)
		urls := make(map[string]int)
		for i, e := range u.Endpoints {
			here := fmt.Sprintf("%s.endpoints[%d]", at, i)
			if e == nil || e.URL == "" {
				continue
			}
			k.report(here+".url", checkURL(e.URL))
			k.notAdmin(here+".url", e.URL)
			if first, ok := urls[e.URL]; ok {
				k.fault(here+".url", fmt.Sprintf("%s is an endpoint twice, first at %s", quote(e.URL), k.place(fmt.Sprintf("%s.endpoints[%d].url", at, first))), "give it a weight instead")
				continue
			}
			urls[e.URL] = i
		}
	}
}

// routes checks the routes, and returns the names of the upstreams in use.
func (k *checker) routes() map[string]bool {
	if k.c.Routes == nil && !k.known["routes"] {
		k.fault("", `"routes" is missing: every request would be answered 404`, `write "routes: []" when that is meant`)
	}
	used := make(map[string]bool)
	names := map[string]string{}
	for i, r := range k.c.Routes {
		if r == nil {
			continue
		}
		at := fmt.Sprintf("routes[%d]", i)
		if r.Name != "" {
			k.name(at, r.Name, false, names)
		}
		if r.Name == "none" || r.Name == "other" {
			k.fault(at+".name", fmt.Sprintf("name %s is kept for metrics", quote(r.Name)), "choose another")
		}
		if r.Match != nil {
			k.match(at+".match", r.Match)
		}
		k.ends(at, r)
		k.upstream(at+".upstream", r.Upstream, used)
		k.httpUpstream(at+".upstream", r.Upstream)
		if r.Mirror != nil {
			k.upstream(at+".mirror.upstream", r.Mirror.Upstream, used)
		}
		weights := 0
		for j, s := range r.Split {
			if s == nil {
				continue
			}
			weights += s.Weight
			here := fmt.Sprintf("%s.split[%d].upstream", at, j)
			k.upstream(here, s.Upstream, used)
			k.httpUpstream(here, s.Upstream)
		}
		if r.Split != nil && weights == 0 && !k.known[at+".split"] {
			k.fault(at+".split", "no part of the split has a weight", "")
		}
		k.splitBy(at+".split_by", r)
		k.rewrite(at+".rewrite", r)
		if r.Redirect != nil && !k.known[at+".redirect"] && !strings.HasPrefix(r.Redirect.To, "/") && !isURL(r.Redirect.To) {
			k.fault(at+".redirect.to", quote(r.Redirect.To)+" is neither a path nor an absolute URL", "write /path or https://host/path")
		}
		if r.Respond != nil {
			k.respond(at+".respond", r.Respond)
		}
	}
	return used
}

// splitBy checks what keeps callers in their part of a split.
func (k *checker) splitBy(at string, r *Route) {
	switch by := r.SplitBy; {
	case by == "":
	case !isHash(by) && !isExpression(by):
		k.fault(at, quote(by)+" does not say what tells callers apart", "write header:NAME, cookie:NAME, query:NAME or client")
	case r.Split == nil && !k.known[strings.TrimSuffix(at, "_by")]:
		k.fault(at, "there is no split", "remove it, or write split")
	}
}

// ends checks that a route does exactly one thing.
func (k *checker) ends(at string, r *Route) {
	var ends []string
	for _, e := range []struct {
		key string
		set bool
	}{{"upstream", r.Upstream != ""}, {"split", r.Split != nil}, {"redirect", r.Redirect != nil}, {"respond", r.Respond != nil}} {
		if e.set || k.known[at+"."+e.key] {
			ends = append(ends, e.key)
		}
	}
	switch {
	case len(ends) == 0 && !k.known[at]:
		k.fault(at, "the route does nothing", "give it an upstream, split, redirect or respond")
	case len(ends) > 1:
		k.fault(at+"."+ends[1], fmt.Sprintf("the route has %s as well as %s", ends[1], ends[0]), "a route has one of upstream, split, redirect and respond")
	case r.Mirror != nil && len(ends) == 1 && (ends[0] == "redirect" || ends[0] == "respond"):
		k.fault(at+".mirror", "mirror has no effect on a route with "+ends[0], "remove it")
	case r.Rewrite != nil && len(ends) == 1 && (ends[0] == "redirect" || ends[0] == "respond"):
		k.fault(at+".rewrite", "rewrite has no effect on a route with "+ends[0], "remove it")
	}
}

// upstream checks a reference to an upstream.
func (k *checker) upstream(path, name string, used map[string]bool) {
	switch {
	case name == "":
	case isURL(name):
		k.report(path, checkURL(name))
		k.notAdmin(path, name)
	case k.known["upstreams"] && k.c.Upstreams == nil:
	default:
		used[name] = true
		if _, ok := k.c.Upstreams[name]; ok {
			return
		}
		hint := meant(name, slices.Sorted(maps.Keys(k.c.Upstreams)))
		if checkURL("http://"+name) == nil && strings.Contains(name, ":") {
			hint = "write http://" + name
		} else if hint == "" && len(k.c.Upstreams) == 0 {
			hint = "define it below upstreams, or write a URL"
		}
		k.fault(path, fmt.Sprintf("upstream %s is not defined", quote(name)), hint)
	}
}

func (k *checker) match(at string, m *Match) {
	for i, h := range m.Host {
		k.report(fmt.Sprintf("%s.host[%d]", at, i), checkHostPattern(h))
	}
	for i, method := range m.Methods {
		here := fmt.Sprintf("%s.methods[%d]", at, i)
		switch {
		case !policy.IsToken(method):
			k.fault(here, quote(method)+" is not a method", "write GET, or a list of methods")
		case strings.ToUpper(method) != method:
			k.fault(here, quote(method)+" is not a method: methods are upper case", "write "+strings.ToUpper(method))
		}
	}
	switch {
	case m.GRPC != nil && m.Path != "":
		k.fault(at+".grpc", "the match has grpc as well as path", "a match has one of the two")
	case m.GRPC != nil && m.PathRegex != "":
		k.fault(at+".grpc", "the match has grpc as well as path_regex", "a match has one of the two")
	case m.GRPC != nil:
		k.grpc(at+".grpc", m.GRPC)
	case m.Path != "" && m.PathRegex != "":
		k.fault(at+".path_regex", "the match has path_regex as well as path", "a match has one of the two")
	case m.Path != "" && m.Path[0] != '/':
		k.fault(at+".path", quote(m.Path)+": a path begins with /", "write /"+m.Path)
	case strings.ContainsAny(m.Path, "?#"):
		k.fault(at+".path", quote(m.Path)+": a path has no query and no fragment", "use query: to match parameters")
	}
	for name := range m.Headers {
		if !policy.IsToken(name) {
			k.fault(keyed(at+".headers", name), quote(name)+" is not a field name", "")
		}
	}
	k.folded(at+".headers", slices.Sorted(maps.Keys(m.Headers)))
	for _, group := range []struct {
		key    string
		values map[string]*ValueMatch
	}{{".headers", m.Headers}, {".query", m.Query}, {".cookies", m.Cookies}} {
		for name, v := range group.values {
			here := keyed(at+group.key, name)
			if v == nil || k.known[here] {
				continue
			}
			n := 0
			for _, set := range []bool{v.Exact != nil, v.Regex != "", v.Present != nil} {
				if set {
					n++
				}
			}
			if n != 1 {
				k.fault(here, fmt.Sprintf("%d conditions stand where one is wanted", n), "give one of exact, regex and present")
			}
		}
	}
}

// grpc checks the names of a service and a method: those of protocol buffers.
func (k *checker) grpc(at string, g *GRPCMatch) {
	name := func(key, s string, parts []string) {
		for _, part := range parts {
			if s != "" && (part == "" || !plainKey(part) || strings.Contains(part, "-") || part[0] >= '0' && part[0] <= '9') {
				k.fault(at+"."+key, fmt.Sprintf("%s is not the name of a %s", quote(s), key), map[string]string{"service": "write its package too, as in shop.v1.Products", "method": "write it without the service, as in Get"}[key])
				return
			}
		}
	}
	name("service", g.Service, strings.Split(g.Service, "."))
	name("method", g.Method, []string{g.Method})
}

// folded reports names of header fields that differ by case alone.
func (k *checker) folded(at string, names []string) {
	seen := make(map[string]string, len(names))
	for _, name := range names {
		if first, ok := seen[strings.ToLower(name)]; ok {
			k.fault(keyed(at, name), fmt.Sprintf("%s and %s are the same field", quote(first), quote(name)), "case does not matter in field names")
		}
		seen[strings.ToLower(name)] = name
	}
}

func keyed(path, key string) string {
	s := joinPath([]step{{key: key, index: -1}})
	if s[0] == '[' {
		return path + s
	}
	return path + "." + s
}

func (k *checker) rewrite(at string, r *Route) {
	w := r.Rewrite
	if w == nil {
		return
	}
	switch {
	case w.StripPrefix == "":
	case w.StripPrefix[0] != '/':
		k.fault(at+".strip_prefix", quote(w.StripPrefix)+": a prefix begins with /", "write /"+w.StripPrefix)
	case strings.ContainsAny(w.StripPrefix, "*{}?#"):
		k.fault(at+".strip_prefix", quote(w.StripPrefix)+": a prefix is taken as it stands, without * and parameters", "")
	case strings.HasSuffix(w.StripPrefix, "/"):
		k.fault(at+".strip_prefix", quote(w.StripPrefix)+": a prefix ends at a segment, without /", "write "+quote(strings.TrimRight(w.StripPrefix, "/")))
	}
	if w.Path != "" && w.Path[0] != '/' {
		k.fault(at+".path", quote(w.Path)+": a path begins with /", "write /"+w.Path)
	}
	if w.Host != "" {
		k.report(at+".host", checkHostPort(w.Host))
	}
}

func (k *checker) respond(at string, r *Respond) {
	if r.Body != "" && (r.Status == 204 || r.Status == 205 || r.Status == 304) {
		k.fault(at+".body", fmt.Sprintf("an answer with status %d has no body", r.Status), "remove the body, or use another status")
	}
	names := slices.Sorted(maps.Keys(r.Headers))
	k.folded(at+".headers", names)
	for _, name := range names {
		here := keyed(at+".headers", name)
		switch value := r.Headers[name]; {
		case !policy.IsToken(name):
			k.fault(here, quote(name)+" is not a field name", "")
		case slices.Contains(framing(), strings.ToLower(name)):
			k.fault(here, quote(name)+" is set by the gateway alone", "remove it")
		case strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }):
			k.fault(here, quote(value)+" is not a field value: it holds a control character", "")
		}
	}
}

// framing are the fields that belong to the connection (RFC 9110 section
// 7.6.1), or say where a message ends (RFC 9112 section 6).
func framing() []string {
	return []string{"connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
}
