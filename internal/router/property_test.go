package router

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"pgregory.net/rapid"
)

// naive is the rules of matching once more, written to be read: it turns each
// pattern into a regular expression, asks every route, and sorts those that
// take the request.
type naive []Entry

type hit struct {
	index                                        int
	host, class, literals, length, open, earlier int
	conditions                                   int
}

func (n naive) match(r *exchange.Request) (index int, allow []string) {
	var hits []hit
	methods := make(map[string]bool)
	for i, e := range n {
		h, ok := naiveHit(i, e.Match, r)
		if !ok {
			continue
		}
		takes := len(e.Match.Methods) == 0
		for _, m := range e.Match.Methods {
			methods[m] = true
			methods["HEAD"] = methods["HEAD"] || m == "GET"
			takes = takes || m == r.Method || m == "GET" && r.Method == "HEAD"
		}
		if takes {
			hits = append(hits, h)
		}
	}
	if len(hits) == 0 {
		for m, ok := range methods {
			if ok {
				allow = append(allow, m)
			}
		}
		slices.Sort(allow)
		return -1, allow
	}
	return slices.MinFunc(hits, func(a, b hit) int {
		return cmp.Or(cmp.Compare(a.host, b.host), cmp.Compare(a.class, b.class), cmp.Compare(b.literals, a.literals),
			cmp.Compare(b.length, a.length), cmp.Compare(a.open, b.open), cmp.Compare(b.earlier, a.earlier),
			cmp.Compare(b.conditions, a.conditions), cmp.Compare(a.index, b.index))
	}).index, nil
}

func naiveHit(index int, m *config.Match, r *exchange.Request) (hit, bool) {
	h := hit{index: index, host: naiveHost(m.Host, r.Host), conditions: len(m.Headers) + len(m.Query) + len(m.Cookies)}
	if len(m.Methods) > 0 {
		h.conditions++
	}
	expr := m.PathRegex
	h.class = 2
	if expr == "" {
		h.class = 0
		expr = ""
		for part := range strings.SplitSeq(m.Path[1:], "/") {
			switch {
			case part == "*" || strings.HasSuffix(part, "...}"):
				expr += "(/.*)?"
				h.class, h.open = 1, 1
			case part != "" && part[0] == '{':
				expr += "/[^/]+"
				h.class = 1
				h.length++
				h.earlier *= 2
			default:
				expr += "/" + regexp.QuoteMeta(part)
				h.literals++
				h.length++
				h.earlier = 2*h.earlier + 1
			}
		}
	}
	if h.host < 0 || !regexp.MustCompile("^(?:"+expr+")$").MatchString(r.Path) {
		return h, false
	}
	for name, v := range m.Headers {
		if !naiveHolds(v, slices.Collect(r.Header.Values(name))) {
			return h, false
		}
	}
	query, _ := url.ParseQuery(r.Query)
	for name, v := range m.Query {
		if !naiveHolds(v, query[name]) {
			return h, false
		}
	}
	plain := http.Request{Header: http.Header{"Cookie": slices.Collect(r.Header.Values("Cookie"))}}
	for name, v := range m.Cookies {
		var values []string
		for _, c := range plain.CookiesNamed(name) {
			values = append(values, c.Value)
		}
		if !naiveHolds(v, values) {
			return h, false
		}
	}
	return h, true
}

func naiveHolds(v *config.ValueMatch, values []string) bool {
	switch {
	case v.Present != nil:
		return *v.Present == (len(values) > 0)
	case v.Exact != nil:
		return slices.Contains(values, *v.Exact)
	}
	return slices.ContainsFunc(values, regexp.MustCompile("^(?:"+v.Regex+")$").MatchString)
}

func naiveHost(patterns []string, host string) int {
	best := -1
	if len(patterns) == 0 {
		return 1000
	}
	for _, p := range patterns {
		p = strings.ToLower(p)
		suffix, wild := strings.CutPrefix(p, "*")
		switch {
		case !wild && p == host:
			return 0
		case wild && strings.HasSuffix(host, suffix) && host != suffix:
			if level := 500 - len(suffix); best < 0 || level < best {
				best = level
			}
		}
	}
	return best
}

// The generators draw from few names, so that routes and requests meet.
var (
	genSegment = rapid.SampledFrom([]string{"a", "b", "c", "", "a%2Fb", "d.e"})
	genHost    = rapid.SampledFrom([]string{"x.y", "Z.x.y", "w.z.x.y", "*.y", "*.X.y", "*.z.x.y", "v"})
	genMethod  = rapid.SampledFrom([]string{"GET", "HEAD", "POST", "PUT"})
	genValue   = rapid.SampledFrom([]string{"1", "2", "12", "x y"})
	genRegex   = rapid.SampledFrom([]string{"/a/.*", "/[ab](/c)?", ".*", "/a|/b", "(?P<n>/.)+"})
)

func genPath(t *rapid.T, pattern bool) string {
	var b strings.Builder
	n := rapid.IntRange(0, 4).Draw(t, "segments")
	for i := range n {
		if pattern && rapid.IntRange(0, 2).Draw(t, "param") == 0 {
			fmt.Fprintf(&b, "/{p%d}", i)
		} else {
			b.WriteString("/" + genSegment.Draw(t, "segment"))
		}
	}
	if pattern && (n == 0 || rapid.Bool().Draw(t, "tail")) {
		b.WriteString(rapid.SampledFrom([]string{"/*", "/{tail...}"}).Draw(t, "tail"))
	}
	if b.Len() == 0 {
		return "/"
	}
	return b.String()
}

func genConditions(t *rapid.T, label string) map[string]*config.ValueMatch {
	if rapid.IntRange(0, 2).Draw(t, label) > 0 {
		return nil
	}
	m := make(map[string]*config.ValueMatch)
	for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"n", "accept"}), 1, 2, rapid.ID).Draw(t, label) {
		v := new(config.ValueMatch)
		switch rapid.IntRange(0, 2).Draw(t, label) {
		case 0:
			exact := genValue.Draw(t, label)
			v.Exact = &exact
		case 1:
			v.Regex = rapid.SampledFrom([]string{"1.*", "[0-9]+", ".", "1|12"}).Draw(t, label)
		case 2:
			present := rapid.Bool().Draw(t, label)
			v.Present = &present
		}
		m[name] = v
	}
	return m
}

func genEntries(t *rapid.T) []Entry {
	list := make([]Entry, rapid.IntRange(1, 30).Draw(t, "routes"))
	for i := range list {
		m := &config.Match{
			Host:    rapid.SliceOfN(genHost, 0, 2).Draw(t, "hosts"),
			Headers: genConditions(t, "headers"), Query: genConditions(t, "query"), Cookies: genConditions(t, "cookies"),
		}
		if rapid.Bool().Draw(t, "any method") {
			m.Methods = rapid.SliceOfN(genMethod, 1, 2).Draw(t, "methods")
		}
		if rapid.IntRange(0, 5).Draw(t, "regex") == 0 {
			m.PathRegex = genRegex.Draw(t, "path_regex")
		} else {
			m.Path = genPath(t, true)
		}
		list[i] = Entry{Name: fmt.Sprint("route-", i), Match: m}
	}
	return list
}

func genRequest(t *rapid.T) *exchange.Request {
	r := new(exchange.Request)
	r.Method = genMethod.Draw(t, "method")
	r.Host = rapid.SampledFrom([]string{"", "x.y", "z.x.y", "w.z.x.y", "q.z.x.y", "y", "v", "av", "b.y"}).Draw(t, "host")
	r.Path = genPath(t, false)
	for range rapid.IntRange(0, 2).Draw(t, "fields") {
		r.Header.Add(rapid.SampledFrom([]string{"N", "accept", "o"}).Draw(t, "field"), genValue.Draw(t, "value"))
	}
	for range rapid.IntRange(0, 2).Draw(t, "cookies") {
		r.Header.Add("Cookie", rapid.SampledFrom([]string{"n=1", "n=2; n=12", "accept=1; x=2", "n=", "x=n=1"}).Draw(t, "cookie"))
	}
	r.Query = rapid.SampledFrom([]string{"", "n=1", "%6E=1%32", "accept=2&n=x+y", "n", "n=2&n=1&m=3", "&=&"}).Draw(t, "query")
	return r
}

// Match and Explain find what the naive matcher finds. A route that New says
// cannot be reached is never found, and one that takes exactly the requests of
// another neither.
func TestMatchAgreesWithTheRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := genEntries(t)
		table, clashes := New(list)
		dead := make(map[int]Clash)
		for _, c := range clashes {
			if c.Other < 0 {
				t.Fatalf("fault in %+v: %+v", list[c.Index].Match, c)
			}
			dead[c.Index] = c
		}
		for range 10 {
			r := genRequest(t)
			var out exchange.Route
			m := matching(table, r, &out)
			index, allow := naive(list).match(r)
			if out.Index != index || (m.Kind == Found) != (index >= 0) || (m.Kind == NoMethod) != (len(allow) > 0) || !slices.Equal(m.Allow, allow) {
				t.Fatalf("%+v: Match finds %d, %+v; want %d, %v", r, out.Index, m, index, allow)
			}
			if c, ok := dead[out.Index]; ok {
				t.Fatalf("%+v: Match finds %d, of which New says: %+v", r, out.Index, c)
			}
			won := -1
			seen := make(map[int]bool)
			for _, c := range table.Explain(&exchange.Exchange{Request: *r}) {
				seen[c.Index] = true
				if c.Outcome == Won {
					won = c.Index
				}
				if c.Reason == "" {
					t.Fatalf("%+v: Explain gives no reason for %d", r, c.Index)
				}
			}
			if won != index || len(seen) != len(list) {
				t.Fatalf("%+v: Explain has %d win among %d routes; want %d among %d", r, won, len(seen), index, len(list))
			}
		}
	})
}

// FuzzPattern: a pattern is refused or it matches what it describes.
func FuzzPattern(f *testing.F) {
	for _, s := range []string{"/", "/*", "/a/{b}/c/*", "/a/{b...}", "/{a}/{b}", "/%7e/%2f", "/a//{b}/", "/a/../b", "/{", "/{a}{b}", "/a*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, bad := parsePattern(text)
		if bad != nil {
			if bad.field != "match.path" || bad.text == "" {
				t.Fatalf("%q: a fault that says nothing: %+v", text, bad)
			}
			return
		}
		again, bad := parsePattern(strings.ReplaceAll(p.shape(), "{}", "{x}"))
		if params := len(p.segments) - p.literals; params < 2 && (bad != nil || again.shape() != p.shape()) {
			t.Fatalf("%q: its shape %q is read as %q, %v", text, p.shape(), again.shape(), bad)
		}
		example := strings.NewReplacer("{}", "value", "/*", "/r/s").Replace(p.shape())
		if normal, err := Normalize(example); err != nil || normal != example {
			t.Fatalf("%q: takes %q, which is normalised to %q, %v", text, example, normal, err)
		}
		table, clashes := New([]Entry{{Name: "one", Match: &config.Match{Path: text}}})
		var out exchange.Route
		r := &exchange.Request{Method: "GET", Path: example}
		if len(clashes) > 0 || matching(table, r, &out).Kind != Found {
			t.Fatalf("%q: does not take %q: %+v", text, example, clashes)
		}
		names := Params(&config.Match{Path: text})
		for _, param := range out.Params {
			if param.Value != "value" && param.Value != "r/s" || !slices.Contains(names, param.Name) {
				t.Fatalf("%q: has parameter %+v on %q; Params are %q", text, param, example, names)
			}
		}
	})
}
