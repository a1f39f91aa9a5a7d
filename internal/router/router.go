// Package router owns the question which route takes a request: the one
// spelling of a path, the patterns of hosts and paths, their order, and the
// immutable table that answers without allocating. It also owns the templates
// that put what was matched into a new path or location. It refuses to know
// what a route does, and it never changes a request.
package router

import (
	"cmp"
	"regexp"
	"slices"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
)

// Entry is one route as New takes it. Its place in the list is the route's
// index, and decides between routes that are otherwise equal.
type Entry struct {
	Name  string
	Match *config.Match
}

// Table is a compiled, immutable set of routes. It is used by many goroutines
// at once.
type Table struct {
	routes    []*route // in order of rank
	exact     map[host]*tree
	wildcards map[host]*tree
	any       *tree
}

// route is the compiled match of one entry.
type route struct {
	name       string
	index      int
	rank       int32 // place in the order of all routes, hosts aside
	hosts      []host
	pattern    pattern
	methods    []string // sorted; nil for every method
	predicates []predicate
}

// Kind says how a match ended.
type Kind uint8

// The outcomes of a match.
const (
	NoRoute  Kind = iota // no route takes this request
	NoMethod             // routes would take it if it had another method
	Found
)

// Result is the outcome of a match.
type Result struct {
	Kind  Kind
	Allow []string // with NoMethod: the methods that would do, sorted
}

// Match finds the route that takes x.Request and fills in x.Route, whose Params
// are used again. It looks at the request's Host, Method, Path, Query and
// Header, and a "when" at the rest of it and at the client; Path is normalised
// and Host is in lower case.
//
// Host patterns are searched from the most to the least specific one; the
// search goes on when none of the routes of a host takes the request. Match
// does not allocate, unless the route found has a path_regex with groups, a
// regex looks at an encoded query parameter, a "when" is evaluated, or the
// answer is NoMethod.
func (t *Table) Match(x *exchange.Exchange) Result {
	r, out := &x.Request, &x.Route
	out.Params, out.Rest = out.Params[:0], ""
	s := search{x: x, path: r.Path}
	t.search(&s)
	if s.best != nil {
		out.Name, out.Index = s.best.name, s.best.index
		s.best.pattern.match(r.Path, out)
		return Result{Kind: Found}
	}
	out.Name, out.Index = "", -1
	if s.methodFailed {
		s.collect = true
		t.search(&s)
	}
	if len(s.allow) == 0 {
		return Result{Kind: NoRoute}
	}
	slices.Sort(s.allow)
	return Result{Kind: NoMethod, Allow: slices.Compact(s.allow)}
}

// search goes through the trees whose host matches, the most specific first.
func (t *Table) search(s *search) {
	name := s.x.Request.Host
	if tree := t.exact[host(name)]; tree != nil && s.in(tree) {
		return
	}
	if len(t.wildcards) > 0 {
		for i := 1; i < len(name); i++ {
			if name[i] != '.' {
				continue
			}
			if tree := t.wildcards[host(name[i:])]; tree != nil && s.in(tree) {
				return
			}
		}
	}
	if t.any != nil {
		s.in(t.any)
	}
}

func (r *route) methodHolds(method string) bool {
	return r.methods == nil || slices.Contains(r.methods, method)
}

func (r *route) predicatesHold(x *exchange.Exchange) bool {
	for _, p := range r.predicates {
		if !p.holds(x) {
			return false
		}
	}
	return true
}

// conditions counts what decides between routes of equal paths.
func (r *route) conditions() int {
	n := len(r.predicates)
	if r.methods != nil {
		n++
	}
	return n
}

// New compiles routes. Entries with a fault are left out of the table; every
// fault is reported, and so is every route that cannot be told apart from an
// earlier one, and, as a warning, every route that another hides.
func New(entries []Entry) (*Table, []Clash) {
	b := &builder{regexes: make(map[string]*regexp.Regexp)}
	routes := make([]*route, 0, len(entries))
	for i, e := range entries {
		if r := b.compile(i, e); r != nil {
			routes = append(routes, r)
		}
	}
	slices.SortFunc(routes, func(x, y *route) int {
		n, _ := order(x, y)
		return n
	})
	t := &Table{routes: routes, exact: make(map[host]*tree), wildcards: make(map[host]*tree)}
	for i, r := range routes {
		r.rank = int32(i)
		for _, h := range r.hosts {
			t.tree(h).insert(r)
		}
	}
	b.clashes = append(b.clashes, findClashes(routes)...)
	slices.SortStableFunc(b.clashes, func(x, y Clash) int { return cmp.Compare(x.Index, y.Index) })
	return t, b.clashes
}

func (t *Table) tree(h host) *tree {
	if h == anyHost {
		if t.any == nil {
			t.any = new(tree)
		}
		return t.any
	}
	m := t.exact
	if h.wildcard() {
		m = t.wildcards
	}
	if m[h] == nil {
		m[h] = new(tree)
	}
	return m[h]
}

// builder compiles entries and gathers what is wrong with them.
type builder struct {
	regexes map[string]*regexp.Regexp // anchored, by their source: many routes share a few
	clashes []Clash
}

// compile returns nil for an entry with a fault.
func (b *builder) compile(index int, e Entry) *route {
	sound := true
	report := func(faults ...*fault) {
		for _, f := range faults {
			sound = false
			b.clashes = append(b.clashes, Clash{Index: index, Other: -1, Field: f.field, Text: f.text, Hint: f.hint})
		}
	}
	m := e.Match
	if m == nil {
		report(&fault{field: "match", text: "a route needs a match", hint: "for every request write match: /*"})
		return nil
	}
	r := &route{name: e.Name, index: index, pattern: everyPath}
	var faults []*fault
	r.hosts, faults = parseHosts(m.Host)
	report(faults...)
	var f *fault
	switch {
	case m.Pattern() != "" && m.PathRegex != "":
		f = &fault{field: "match.path_regex", text: "a route has either a path or a path_regex", hint: "remove one"}
	case m.Pattern() != "":
		r.pattern, f = parsePattern(m.Pattern())
	case m.PathRegex != "":
		r.pattern, f = b.parseRegex(m.PathRegex)
	}
	if f != nil {
		report(f)
	}
	r.methods, faults = parseMethods(m.Methods)
	report(faults...)
	r.predicates, faults = b.parsePredicates(m)
	report(faults...)
	if !sound {
		return nil
	}
	return r
}

// order compares routes of the same host: negative when x is asked before y.
// why says what makes the one that is asked first come first.
func order(x, y *route) (n int, why string) {
	p, q := &x.pattern, &y.pattern
	if n = cmp.Compare(p.class(), q.class()); n != 0 {
		if min(p.class(), q.class()) == classExact {
			return n, "an exact path comes before patterns"
		}
		return n, "path_regex comes after all other paths"
	}
	if n = cmp.Compare(q.literals, p.literals); n != 0 {
		return n, "more literal segments come first"
	}
	if n = cmp.Compare(len(q.segments), len(p.segments)); n != 0 {
		return n, "the longer prefix comes first"
	}
	if p.tail != q.tail {
		if q.tail {
			return -1, "a pattern that ends comes before a prefix"
		}
		return 1, "a pattern that ends comes before a prefix"
	}
	for i := range p.segments {
		if l, r := p.segments[i].param == "", q.segments[i].param == ""; l != r {
			if l {
				return -1, "the earlier literal segment comes first"
			}
			return 1, "the earlier literal segment comes first"
		}
	}
	if n = cmp.Compare(y.conditions(), x.conditions()); n != 0 {
		return n, "more conditions come first"
	}
	return cmp.Compare(x.index, y.index), "it stands earlier in the file"
}

// The classes of patterns, in order.
const (
	classExact = iota
	classPattern
	classRegex
)

func (p *pattern) class() int {
	switch {
	case p.regex != nil:
		return classRegex
	case p.tail || p.literals < len(p.segments):
		return classPattern
	}
	return classExact
}
