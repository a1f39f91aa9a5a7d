package router

import (
	"slices"
	"strings"
)

// Clash is what is wrong with a route: with its match by itself, or with it
// beside another route.
type Clash struct {
	Index   int    // of the entry
	Other   int    // of the entry it clashes with, -1 when it is wrong by itself
	Field   string // path within the route, for example "match.path"
	Text    string // what is wrong
	Hint    string // what to write instead, "" for none
	Warning bool   // the route can never be reached, but the table is sound
}

// findClashes finds the routes that can never be told apart from an earlier
// one, and those that another route hides. Routes come in order of rank.
//
// A route that hides another has, but for the cases named at hidden, a pattern
// of the same shape and predicates with the same subjects: any other pattern
// that takes all the paths comes later in the order. So a look into one group
// is enough, and the whole is about linear in the number of routes. What only
// several routes together hide is not found.
func findClashes(routes []*route) []Clash {
	f := finder{
		twins:  make(map[string]*route, len(routes)),
		groups: make(map[string]*group, len(routes)),
		tails:  make(map[string][]*route),
	}
	for _, r := range routes {
		f.look(r)
	}
	return f.clashes
}

type finder struct {
	twins   map[string]*route   // by hosts, shape and predicates
	groups  map[string]*group   // by one host, shape and subjects of predicates
	tails   map[string][]*route // prefixes of literal segments, by host and shape
	clashes []Clash
}

// group holds routes whose patterns take the same paths of the same host, and
// whose predicates look at the same things.
type group struct {
	first *route
	same  map[string]*route // the first route of each set of predicates
	wide  []*route          // routes whose predicates may imply those of others
}

// mostWide bounds how many routes of a group, and how many prefixes, a route is
// compared with. A warning may be missed beyond it; a fault never is.
const mostWide = 32

// look reports what r clashes with, and files it for those that come later.
func (f *finder) look(r *route) {
	shape := r.pattern.shape()
	subjects, conditions := r.describe()

	key := r.hostKey() + shape + conditions
	if twin := f.twins[key]; twin != nil {
		f.clashes = append(f.clashes, Clash{
			Index: r.index, Other: twin.index, Field: "match",
			Text: "takes exactly the requests of route " + quote(twin.name) + ", so that it would never be used",
			Hint: "remove one of them, or tell them apart by method, header, query or cookie",
		})
	} else {
		f.twins[key] = r
		if by := f.hiddenBy(r, shape, subjects, conditions); by != nil {
			_, why := order(by, r)
			f.clashes = append(f.clashes, Clash{
				Index: r.index, Other: by.index, Field: "match", Warning: true,
				Text: "can never be reached: route " + quote(by.name) + " takes all of its requests, and " + why,
				Hint: "remove it, or make its match narrower or that of the other one",
			})
		}
	}
	f.file(r, shape, subjects, conditions)
}

// hiddenBy returns a route that hides r on its first host, if routes hide it on
// each of its hosts.
func (f *finder) hiddenBy(r *route, shape, subjects, conditions string) *route {
	var first *route
	for _, h := range r.hosts {
		by := f.hidden(r, h, shape, subjects, conditions)
		if by == nil {
			return nil
		}
		if first == nil {
			first = by
		}
	}
	return first
}

func (f *finder) hidden(r *route, h host, shape, subjects, conditions string) *route {
	if g := f.groups[string(h)+shape+subjects]; g != nil {
		if by := g.find(r, conditions); by != nil {
			return by
		}
	}
	if r.pattern.regex == nil {
		return nil
	}
	// A prefix comes before any regex, with fewer predicates too. It hides the
	// regex when all that this can match begins with it.
	prefix, whole := r.pattern.regex.LiteralPrefix()
	for i := 0; i < len(prefix); i++ {
		if prefix[i] != '/' {
			continue
		}
		if by := covering(f.tails[string(h)+prefix[:i]+"/*"], r); by != nil {
			return by
		}
	}
	if whole {
		return covering(f.tails[string(h)+prefix+"/*"], r)
	}
	return nil
}

func (g *group) find(r *route, conditions string) *route {
	if g.same == nil {
		return covering([]*route{g.first}, r)
	}
	if by := g.same[conditions]; by != nil {
		return by
	}
	return covering(g.wide, r)
}

// covering returns the first route of a list whose method and predicates hold
// whenever those of r do.
func covering(list []*route, r *route) *route {
	for _, by := range list {
		if by.covers(r) {
			return by
		}
	}
	return nil
}

func (r *route) covers(o *route) bool {
	if r.methods != nil && (o.methods == nil || slices.ContainsFunc(o.methods, func(m string) bool { return !slices.Contains(r.methods, m) })) {
		return false
	}
	for _, p := range r.predicates {
		implied := func(q predicate) bool { return q.subject() == p.subject() && q.implies(p) }
		if !slices.ContainsFunc(o.predicates, implied) {
			return false
		}
	}
	return true
}

// file keeps r for the routes that come after it.
func (f *finder) file(r *route, shape, subjects, conditions string) {
	for _, h := range r.hosts {
		key := string(h) + shape + subjects
		g := f.groups[key]
		if g == nil {
			f.groups[key] = &group{first: r}
		} else {
			g.add(r, conditions)
		}
		if p := &r.pattern; p.tail && p.literals == len(p.segments) {
			tail := string(h) + shape
			if list := f.tails[tail]; len(list) < mostWide {
				f.tails[tail] = append(list, r)
			}
		}
	}
}

func (g *group) add(r *route, conditions string) {
	if g.same == nil {
		_, first := g.first.describe()
		g.same = map[string]*route{first: g.first}
		g.widen(g.first)
	}
	if g.same[conditions] == nil {
		g.same[conditions] = r
	}
	g.widen(r)
}

// widen files a route that may cover others with other predicates: several
// methods, a regex, or a value that must only be present.
func (g *group) widen(r *route) {
	wide := len(r.methods) > 1 || slices.ContainsFunc(r.predicates, func(p predicate) bool {
		c, ok := p.(*condition)
		return ok && c.test.exact == nil
	})
	if wide && len(g.wide) < mostWide {
		g.wide = append(g.wide, r)
	}
}

// describe returns what the method and predicates of a route look at, and what
// they want. Separators are bytes that cannot stand in a quoted text.
func (r *route) describe() (subjects, conditions string) {
	if r.methods == nil && len(r.predicates) == 0 {
		return "", ""
	}
	var s, c strings.Builder
	if r.methods != nil {
		s.WriteString("\nmethod")
		c.WriteString("\nmethod ")
		c.WriteString(strings.Join(r.methods, ","))
	}
	for _, p := range r.predicates {
		s.WriteString("\n" + quote(p.subject()))
		c.WriteString("\n" + quote(p.String()))
	}
	return s.String(), c.String()
}

// hostKey is the same text for the same set of hosts.
func (r *route) hostKey() string {
	if len(r.hosts) == 1 {
		return string(r.hosts[0]) // followed by a slash or ~, which hosts do not hold
	}
	sorted := slices.Sorted(slices.Values(r.hosts))
	var b strings.Builder
	for _, h := range sorted {
		b.WriteString(string(h))
		b.WriteByte(',')
	}
	return b.String()
}
