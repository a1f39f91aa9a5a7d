package router

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
)

// short reads a match written "[METHOD[,METHOD]] [host[,host]]/path", where
// "~" before the path makes it a path_regex, and conditions may follow:
// "h:name=value", "q:name=value", "c:name=value", with =~ for a regex, with
// nothing for present, and "!h:name" for absent.
func short(text string) *config.Match {
	m := new(config.Match)
	words := strings.Fields(text)
	if !strings.ContainsAny(words[0], "/~") {
		m.Methods, words = strings.Split(words[0], ","), words[1:]
	}
	target := words[0]
	if i := strings.IndexAny(target, "/~"); i > 0 {
		m.Host, target = strings.Split(target[:i], ","), target[i:]
	}
	if target[0] == '~' {
		m.PathRegex = target[1:]
	} else {
		m.Path = target
	}
	for _, w := range words[1:] {
		w, absent := strings.CutPrefix(w, "!")
		kind, rest, _ := strings.Cut(w, ":")
		name, value, exact := strings.Cut(rest, "=")
		v := new(config.ValueMatch)
		switch regex, ok := strings.CutPrefix(value, "~"); {
		case ok:
			v.Regex = regex
		case exact:
			v.Exact = &value
		default:
			present := !absent
			v.Present = &present
		}
		into := map[string]*map[string]*config.ValueMatch{"h": &m.Headers, "q": &m.Query, "c": &m.Cookies}[kind]
		if *into == nil {
			*into = make(map[string]*config.ValueMatch)
		}
		(*into)[name] = v
	}
	return m
}

func entries(matches ...string) []Entry {
	list := make([]Entry, len(matches))
	for i, m := range matches {
		list[i] = Entry{Name: m, Match: short(m)}
	}
	return list
}

func table(t testing.TB, matches ...string) *Table {
	t.Helper()
	table, clashes := New(entries(matches...))
	for _, c := range clashes {
		if !c.Warning {
			t.Fatalf("fault in %q: %s: %s", matches[c.Index], c.Field, c.Text)
		}
	}
	return table
}

// request reads "METHOD host/path?query" with header lines "Name: value" after
// it. The method may be left out.
func request(text string, lines ...string) *exchange.Request {
	r := new(exchange.Request)
	r.Method = "GET"
	if method, target, ok := strings.Cut(text, " "); ok && !strings.Contains(method, "/") {
		r.Method, text = method, target
	}
	text, r.Query, r.HasQuery = strings.Cut(text, "?")
	i := strings.IndexByte(text, '/')
	r.Host, r.Path = text[:i], text[i:]
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		r.Header.Add(name, value)
	}
	return r
}

var precedenceCases = []struct {
	name   string
	routes []string
	wins   map[string]string // request -> route, "404", or "405 methods"
}{
	{
		"exact before patterns",
		[]string{"/*", "/products/*", "/products/{id}", "/products/new", "~/products/.*"},
		map[string]string{
			"/products/new":   "/products/new",
			"/products/4711":  "/products/{id}",
			"/products/4711/": "/products/*",
			"/products":       "/products/*",
			"/products/":      "/products/*",
			"/products/a/b":   "/products/*",
			"/productsx":      "/*",
			"/":               "/*",
			"//":              "/*",
		},
	},
	{
		"a final slash makes another path",
		[]string{"/a", "/a/", "/b/{x}/", "/b/{x}"},
		map[string]string{"/a": "/a", "/a/": "/a/", "/a//": "404", "/b/1": "/b/{x}", "/b/1/": "/b/{x}/", "/b/": "404", "/b//": "404"},
	},
	{
		"duplicate slashes are segments",
		[]string{"/a//b", "/a/b", "/a/{x}/b", "/c//*"},
		map[string]string{"/a//b": "/a//b", "/a/b": "/a/b", "/a/1/b": "/a/{x}/b", "//a/b": "404", "/c//1": "/c//*", "/c/1": "404"},
	},
	{
		"more literal segments first",
		[]string{"/{a}/{b}/c", "/a/{b}/{c}/*", "/a/{b}/c", "/a/*", "/a/b/*"},
		map[string]string{
			"/a/b/c":   "/a/{b}/c", // two literals, and longer than /a/b/*
			"/x/b/c":   "/{a}/{b}/c",
			"/a/b/d":   "/a/b/*",
			"/a/x/d":   "/a/{b}/{c}/*",
			"/a/x/d/e": "/a/{b}/{c}/*",
			"/a/x":     "/a/*",
			"/a/x/c":   "/a/{b}/c",
		},
	},
	{
		"then the longer prefix",
		[]string{"/*", "/{x}/*", "/{x}/{y}/*", "/{x}"},
		map[string]string{"/": "/*", "/a": "/{x}", "/a/": "/{x}/*", "/a/b": "/{x}/{y}/*", "/a/b/c": "/{x}/{y}/*"},
	},
	{
		"then the earlier literal",
		[]string{"/{x}/b", "/a/{y}"},
		map[string]string{"/a/b": "/a/{y}", "/x/b": "/{x}/b"},
	},
	{
		"a better pattern behind a parameter",
		[]string{"/a/{b}/{c}", "/{a}/b/c", "/a/*"},
		map[string]string{"/a/b/c": "/{a}/b/c", "/a/x/c": "/a/{b}/{c}", "/a/b/x": "/a/{b}/{c}", "/a/b/c/d": "/a/*"},
	},
	{
		"{name...} is a named prefix",
		[]string{"/files/{file...}", "/files/new"},
		map[string]string{"/files": "/files/{file...}", "/files/": "/files/{file...}", "/files/a/b": "/files/{file...}", "/files/new": "/files/new"},
	},
	{
		"regex last, in order",
		[]string{"~/v[0-9]+/.*", "~/v1/.*", "/v1/users/*", "~/V1(/.*)?"},
		map[string]string{"/v1/users/5": "/v1/users/*", "/v1/x": "~/v[0-9]+/.*", "/v22/": "~/v[0-9]+/.*", "/V1": "~/V1(/.*)?", "/v1": "404", "/x/v1/y": "404"},
	},
	{
		"a regex matches the whole path",
		[]string{"~/a|/b"},
		map[string]string{"/a": "~/a|/b", "/b": "~/a|/b", "/ab": "404", "/a/b": "404", "/b/": "404"},
	},
	{
		"more conditions first",
		[]string{"/a", "/a h:x-a", "GET /a", "GET /a h:x-a q:q", "GET /a h:x-a q:q c:c"},
		map[string]string{
			"POST /a":                  "/a",
			"/a":                       "GET /a",
			"POST /a|X-A: 1":           "/a h:x-a",
			"/a|X-A: 1":                "/a h:x-a", // as many as GET alone: file order
			"/a?q=1|X-A: 1":            "GET /a h:x-a q:q",
			"/a?q=1|X-A: 1|Cookie: c=": "GET /a h:x-a q:q c:c",
		},
	},
	{
		"path before conditions",
		[]string{"GET /a/* h:x q:y", "/a/b", "/a/{x}"},
		map[string]string{"/a/b?y=1|X: 1": "/a/b", "/a/c?y=1|X: 1": "/a/{x}", "/a/c/d?y=1|X: 1": "GET /a/* h:x q:y"},
	},
	{
		"the search goes on when conditions fail",
		[]string{"/a/b h:x", "/a/{n} h:y", "/a/* h:z", "/*"},
		map[string]string{"/a/b|X: 1": "/a/b h:x", "/a/b|Y: 1": "/a/{n} h:y", "/a/b|Z: 1": "/a/* h:z", "/a/b": "/*"},
	},
	{
		"file order in the end",
		[]string{"/a h:x=1", "/a h:y=1"},
		map[string]string{"/a|X: 1|Y: 1": "/a h:x=1", "/a|Y: 1": "/a h:y=1", "/a": "404"},
	},
	{
		"hosts",
		[]string{"/*", "*.example.com/*", "*.eu.example.com/*", "shop.eu.example.com/*", "[::1]/*"},
		map[string]string{
			"shop.eu.example.com/x": "shop.eu.example.com/*",
			"api.eu.example.com/x":  "*.eu.example.com/*",
			"a.b.eu.example.com/x":  "*.eu.example.com/*",
			"eu.example.com/x":      "*.example.com/*",
			"www.example.com/x":     "*.example.com/*",
			"example.com/x":         "/*",
			"badexample.com/x":      "/*",
			"example.com.evil/x":    "/*",
			"[::1]/x":               "[::1]/*",
			"/x":                    "/*",
		},
	},
	{
		"a better path on a lesser host loses",
		[]string{"/a/b", "*.example.com/a/{x}", "shop.example.com/*"},
		map[string]string{"shop.example.com/a/b": "shop.example.com/*", "x.example.com/a/b": "*.example.com/a/{x}", "other/a/b": "/a/b"},
	},
	{
		"the search goes on with lesser hosts",
		[]string{"/b", "*.example.com/a/*", "POST shop.example.com/a/c", "shop.example.com/a"},
		map[string]string{
			"shop.example.com/a":        "shop.example.com/a",
			"shop.example.com/a/b":      "*.example.com/a/*",
			"shop.example.com/a/c":      "*.example.com/a/*",
			"POST shop.example.com/a/c": "POST shop.example.com/a/c",
			"shop.example.com/b":        "/b",
			"shop.example.com/c":        "404",
		},
	},
	{
		"hosts of a list, in any case",
		[]string{"SHOP.example.com,*.Example.ORG/a"},
		map[string]string{"shop.example.com/a": "SHOP.example.com,*.Example.ORG/a", "x.example.org/a": "SHOP.example.com,*.Example.ORG/a", "other/a": "404"},
	},
	{
		"methods",
		[]string{"GET /a", "PUT,DELETE /a", "GET /b h:x", "POST /c", "a/c", "QUERY /d"},
		map[string]string{
			"/a":          "GET /a",
			"HEAD /a":     "GET /a",
			"PUT /a":      "PUT,DELETE /a",
			"POST /a":     "405 DELETE GET HEAD PUT",
			"get /a":      "405 DELETE GET HEAD PUT",
			"POST /b":     "404", // the condition fails as well
			"POST /b|X: ": "405 GET HEAD",
			"PUT a/c":     "a/c",
			"PUT b/c":     "405 POST",
			"QUERY /d":    "QUERY /d",
			"POST /x":     "404",
		},
	},
}

func TestPrecedence(t *testing.T) {
	for _, c := range precedenceCases {
		t.Run(c.name, func(t *testing.T) {
			table := table(t, c.routes...)
			for _, text := range slices.Sorted(maps.Keys(c.wins)) {
				parts := strings.Split(text, "|")
				r := request(parts[0], parts[1:]...)
				if got := outcome(table, r); got != c.wins[text] {
					t.Errorf("%s: %q wins, want %q", text, got, c.wins[text])
				}
				if got := explained(table, r); got != "" && got != outcome(table, r) || got == "" && c.wins[text][0] != '4' {
					t.Errorf("%s: Explain has %q win, Match %q", text, got, outcome(table, r))
				}
			}
		})
	}
}

// matching asks a table about a request alone.
func matching(t *Table, r *exchange.Request, out *exchange.Route) Result {
	x := &exchange.Exchange{Request: *r, Route: *out}
	m := t.Match(x)
	*out = x.Route
	return m
}

func outcome(t *Table, r *exchange.Request) string {
	var out exchange.Route
	switch m := matching(t, r, &out); m.Kind {
	case Found:
		return out.Name
	case NoMethod:
		return "405 " + strings.Join(m.Allow, " ")
	}
	return "404"
}

func explained(t *Table, r *exchange.Request) string {
	for _, c := range t.Explain(&exchange.Exchange{Request: *r}) {
		if c.Outcome == Won {
			return c.Name
		}
	}
	return ""
}

func TestConditions(t *testing.T) {
	for _, c := range []struct {
		match string
		query string
		lines []string
		want  bool
	}{
		{"/ h:x-beta=true", "", []string{"X-Beta: true"}, true},
		{"/ h:X-BETA=true", "", []string{"x-beta: true"}, true},
		{"/ h:x-beta=true", "", []string{"X-Beta: True"}, false},
		{"/ h:x-beta=true", "", nil, false},
		{"/ h:x-beta=true", "", []string{"X-Beta: false", "X-Beta: true"}, true}, // every line is seen
		{"/ h:x-beta=true", "", []string{"X-Beta: true", "X-Beta: false"}, true},
		{"/ h:x-beta=true", "", []string{"X-Beta: true, false"}, false},
		{"/ h:x-beta=~t.*", "", []string{"X-Beta: false", "X-Beta: true"}, true},
		{"/ h:x-beta=~t|f", "", []string{"X-Beta: tf"}, false}, // anchored as a whole
		{"/ h:x-beta", "", []string{"X-Beta: "}, true},
		{"/ h:x-beta", "", []string{"X-Beta2: 1"}, false},
		{"/ !h:x-beta", "", []string{"X-Beta: "}, false},
		{"/ !h:x-beta", "", nil, true},
		{"/ h:accept=a", "", []string{"Accept: b", "accept: a"}, true}, // a well-known name
		{"/ !h:accept", "", []string{"ACCEPT: b"}, false},

		{"/ q:page=1", "page=1", nil, true},
		{"/ q:page=1", "Page=1", nil, false},
		{"/ q:page=1", "page=2&page=1", nil, true},
		{"/ q:page=1", "xpage=1&pagex=1", nil, false},
		{"/ q:page=1", "p%61ge=%31", nil, true},
		{"/ q:page=1", "page=%2531", nil, false}, // decoded once
		{"/ q:page=1", "page=1%", nil, false},
		{"/ q:page=1", "page=%zz&page=1", nil, true},
		{"/ q:page=1", "page=11", nil, false},
		{"/ q:page=1", "page=", nil, false},
		{"/ q:page", "page", nil, true},
		{"/ q:page", "&&page=%zz", nil, true},
		{"/ q:page", "p%zzage=1", nil, false},
		{"/ q:page", "a=page", nil, false},
		{"/ q:page", "", nil, false},
		{"/ !q:page", "a=1", nil, true},
		{"/ !q:page", "a=1&%70age=1", nil, false},
		{"/ q:page=~[0-9]+", "page=a&page=%31%32", nil, true},
		{"/ q:page=~[0-9]+", "page=1a", nil, false},
		{"/ q:page=~[0-9]+", "page=%31%3", nil, false},
		{"/ q:page=~a.b", "page=a+b", nil, true},
		{"/ q:page=a=b", "page=a=b", nil, true},
		{"/ q:page=a", "page=a;page=b", nil, false},

		{"/ c:beta=1", "", []string{"Cookie: a=b; beta=1"}, true},
		{"/ c:beta=1", "", []string{"Cookie: beta=0; beta=1"}, true},
		{"/ c:beta=1", "", []string{"Cookie: a=b", "Cookie: beta=1"}, true},
		{"/ c:beta=1", "", []string{"Cookie: Beta=1"}, false},
		{"/ c:beta=1", "", []string{"Cookie: xbeta=1;beta=10"}, false},
		{"/ c:beta=1", "", []string{"X: beta=1"}, false},
		{"/ c:beta=~[01]", "", []string{"Cookie:  a ;\tbeta=0"}, true},
		{"/ c:beta", "", []string{"Cookie: beta"}, false}, // no pair
		{"/ c:beta", "", []string{"Cookie: beta="}, true},
		{"/ !c:beta", "", []string{"Cookie: a=1"}, true},
		{"/ !c:beta", "", nil, true},

		{"/ h:a=1 q:b=2 c:c=3", "b=2", []string{"A: 1", "Cookie: c=3"}, true},
		{"/ h:a=1 q:b=2 c:c=3", "b=2", []string{"A: 1", "Cookie: c=4"}, false},
	} {
		r := request("/?"+c.query, c.lines...)
		if got := outcome(table(t, c.match), r) != "404"; got != c.want {
			t.Errorf("%q takes /?%s %q: %v, want %v", c.match, c.query, c.lines, got, c.want)
		}
	}
}

func TestMatchFillsInTheRoute(t *testing.T) {
	table := table(t, "/a", "/b/{x}/c/{y}", "/c/*", "/d/{x}/{rest...}", "re~/e/(?P<year>[0-9]+)-([a-z]+)/(?P<name>.*)", "/*")
	out := exchange.Route{Params: []exchange.Param{{Name: "old", Value: "value"}}, Rest: "old"}
	for _, c := range []struct{ target, want string }{
		{"/b/1/c/2%2F3", `1 [{x 1} {y 2%2F3}] ""`},
		{"/a", `0 [] ""`},
		{"/c", `2 [] ""`},
		{"/c/", `2 [] ""`},
		{"/c/x/y/", `2 [] "x/y/"`},
		{"/c//x", `2 [] "/x"`},
		{"/d/1", `3 [{x 1} {rest }] ""`},
		{"/d/1/2/3", `3 [{x 1} {rest 2/3}] "2/3"`},
		{"re/e/2024-may/x/y", `4 [{year 2024} {name x/y}] ""`},
		{"/", `5 [] ""`},
		{"/x/y", `5 [] "x/y"`},
	} {
		matching(table, request(c.target), &out)
		if got := fmt.Sprintf("%d %v %q", out.Index, out.Params, out.Rest); got != c.want {
			t.Errorf("%s: %s, want %s", c.target, got, c.want)
		}
	}
	small, _ := New(nil)
	if m := matching(small, request("/x"), &out); m.Kind != NoRoute || out.Index != -1 || out.Name != "" || len(out.Params) != 0 || out.Rest != "" {
		t.Errorf("an empty table: %+v, %+v", m, out)
	}
}

func TestFaults(t *testing.T) {
	set := func(change func(*config.Match)) *config.Match {
		m := &config.Match{Path: "/a"}
		change(m)
		return m
	}
	yes, text := true, "x"
	for _, c := range []struct {
		match             *config.Match
		field, text, hint string
	}{
		{nil, "match", "needs a match", "/*"},
		{short("/a/b*"), "match.path", "does not stand alone", "/products/*"},
		{short("/a/*/b"), "match.path", "does not stand alone", ""},
		{short("/a/**"), "match.path", "does not stand alone", ""},
		{short("/a/{x}.json"), "match.path", "not a whole segment", "path_regex"},
		{short("/a/{x"), "match.path", "not a whole segment", "%7B"},
		{short("/a/{}"), "match.path", "bad name", "letters"},
		{short("/a/{...}"), "match.path", "bad name", ""},
		{short("/a/{1x}"), "match.path", "bad name", ""},
		{short("/a/{x-y}"), "match.path", "bad name", ""},
		{short("/a/{{x}}"), "match.path", "not a whole segment", ""},
		{short("/a/{x}/{x}"), "match.path", "{x} twice", ""},
		{short("/a/{x}/{x...}"), "match.path", "{x} twice", ""},
		{short("/a/{x...}/b"), "match.path", "goes on after", "one segment"},
		{short("/a/../b"), "match.path", "dot segment", "removed"},
		{short("/a/%2e"), "match.path", "dot segment", ""},
		{short("/a/..;/b"), "match.path", "disguised", ""},
		{short("/a/%00"), "match.path", "control", ""},
		{short("/a/%zz"), "match.path", "percent sign", ""},
		{short("/größe/*"), "match.path", "percent-encoded", `write "/gr%C3%B6%C3%9Fe/*"`},
		{short("/a?b"), "match.path", "query", "match.query"},
		{&config.Match{Path: "a/b"}, "match.path", "does not begin with a slash", `write "/a/b"`},
		{&config.Match{Path: "/a", PathRegex: "/b"}, "match.path_regex", "either", ""},
		{&config.Match{PathRegex: "/a("}, "match.path_regex", "not a regular expression", "RE2"},
		{&config.Match{PathRegex: "/a)(b"}, "match.path_regex", "not a regular expression", "RE2"},
		{&config.Match{PathRegex: "/(?P<x>a)(?P<x>b)"}, "match.path_regex", "group x twice", ""},
		{&config.Match{PathRegex: "products/.*"}, "match.path_regex", "can match no path", `write "/products/.*"`},
		{short("a.example.com:8080/a"), "match.host[0]", "port", `write "a.example.com"`},
		{short("ok,a..b/a"), "match.host[1]", "empty label", ""},
		{short("a.b./a"), "match.host[0]", "ends in a dot", `write "a.b"`},
		{short("*/a"), "match.host[0]", "every host", "leave host out"},
		{short("a.*.b/a"), "match.host[0]", "first label", ""},
		{short("*a.b/a"), "match.host[0]", "first label", ""},
		{short("*.*.b/a"), "match.host[0]", "first label", ""},
		{short("bücher.example/a"), "match.host[0]", "outside ASCII", "xn--"},
		{short("a$b/a"), "match.host[0]", `holds "$"`, ""},
		{short("[::1/a"), "match.host[0]", "IPv6", ""},
		{short("[::1]:80/a"), "match.host[0]", "IPv6", "without a port"},
		{&config.Match{Host: []string{""}}, "match.host[0]", "empty label", ""},
		{&config.Match{Host: []string{"a/b"}}, "match.host[0]", "slash", "match.path"},
		{short("get /a"), "match.methods[0]", "upper case", "GET"},
		{short("GET,A;B /a"), "match.methods[1]", "method can have", ""},
		{short("TRACE /a"), "match.methods[0]", "refused before", ""},
		{short("/a h:x h:host=a"), "match.headers.host", "value", "match.host"},
		{set(func(m *config.Match) { m.Headers = map[string]*config.ValueMatch{"a b": {Exact: &text}} }), `match.headers["a b"]`, "not a name", ""},
		{set(func(m *config.Match) {
			m.Headers = map[string]*config.ValueMatch{"A": {Exact: &text}, "a": {Exact: &text}}
		}), "match.headers.a", "twice", "case"},
		{set(func(m *config.Match) { m.Headers = map[string]*config.ValueMatch{"a": nil} }), "match.headers.a", "exactly one", ""},
		{set(func(m *config.Match) { m.Query = map[string]*config.ValueMatch{"a": {}} }), "match.query.a", "exactly one", ""},
		{set(func(m *config.Match) { m.Cookies = map[string]*config.ValueMatch{"a": {Exact: &text, Present: &yes}} }), "match.cookies.a", "exactly one", "present"},
		{short("/a q:x=~["), "match.query.x.regex", "not a regular expression", "RE2"},
		{short("/a c:x;y=1"), `match.cookies["x;y"]`, "not a name", ""},
	} {
		list := []Entry{{Name: "good", Match: short("/good")}, {Name: "bad", Match: c.match}}
		table, clashes := New(list)
		if len(clashes) != 1 {
			t.Errorf("%+v: %d faults, want 1: %+v", c.match, len(clashes), clashes)
			continue
		}
		f := clashes[0]
		if f.Index != 1 || f.Other != -1 || f.Warning || f.Field != c.field || !strings.Contains(f.Text, c.text) || !strings.Contains(f.Hint, c.hint) {
			t.Errorf("%+v: %+v; want %q at %s, hint %q", c.match, f, c.text, c.field, c.hint)
		}
		if got := outcome(table, request("/good")); got != "good" {
			t.Errorf("beside %+v the good route is lost: %q", c.match, got)
		}
	}
}

func TestEveryFaultOfARouteIsReported(t *testing.T) {
	m := short("get a..b/x*y h:h=~( q:q=~)")
	_, clashes := New([]Entry{{Match: m}, {Match: m}})
	var fields []string
	for _, c := range clashes {
		fields = append(fields, fmt.Sprintf("%d %s", c.Index, c.Field))
	}
	want := "0 match.host[0] 0 match.path 0 match.methods[0] 0 match.headers.h.regex 0 match.query.q.regex " +
		"1 match.host[0] 1 match.path 1 match.methods[0] 1 match.headers.h.regex 1 match.query.q.regex"
	if got := strings.Join(fields, " "); got != want {
		t.Errorf("faults at\n%s, want\n%s", got, want)
	}
}

func TestClashes(t *testing.T) {
	for _, c := range []struct {
		routes []string
		want   string // "later kind earlier", in order of index
	}{
		// Never told apart.
		{[]string{"/a", "/a"}, "1 fault 0"},
		{[]string{"/a/{x}", "/a/{y}"}, "1 fault 0"},
		{[]string{"/a/*", "/a/{y...}"}, "1 fault 0"},
		{[]string{"/%61", "/a"}, "1 fault 0"},
		{[]string{"x.y,z/a", "Z,X.y,z/a"}, "1 fault 0"},
		{[]string{"GET /a", "HEAD,GET /a"}, "1 fault 0"},
		{[]string{"/a h:X=1 q:y", "/a q:y h:x=1"}, "1 fault 0"},
		{[]string{"~/a.*", "~/a.*"}, "1 fault 0"},
		{[]string{"/a", "/b", "/a", "/a"}, "2 fault 0, 3 fault 0"},
		// Both in force.
		{[]string{"/a", "/b", "/a/", "/a/*", "/a/{x}", "/a/{x}/*", "/*"}, ""},
		{[]string{"x/a", "y/a", "*.x/a", "/a", "x,y/b", "x/b"}, "5 warning 4"},
		{[]string{"/a h:x=1", "/a h:x=2", "/a q:x=1", "/a c:x=1", "/a"}, ""},
		{[]string{"GET /a", "POST /a", "/a"}, ""},
		{[]string{"/a h:x=a", "/a h:x=A"}, ""},
		{[]string{"/a !h:x", "/a h:x"}, ""},
		// Hidden.
		{[]string{"GET,POST /a", "GET /a"}, "1 warning 0"},
		{[]string{"GET /a", "GET,POST /a"}, ""},
		{[]string{"GET /a", "HEAD /a"}, "1 warning 0"},
		{[]string{"/a h:x", "/a h:x=1"}, "1 warning 0"},
		{[]string{"/a h:x=1", "/a h:x"}, ""},
		{[]string{"/a h:x=~[0-9]+", "/a h:x=1", "/a h:x=a", "/a h:x=~[0-9]+ h:y"}, "1 warning 0"},
		{[]string{"/a h:x=~[0-9]+", "/a h:x=~[0-9]"}, ""},
		{[]string{"x,y/a", "x/a"}, "1 warning 0"},
		{[]string{"x/a", "x,y/a"}, ""},
		{[]string{"x/a", "y/a", "x,y/a"}, "2 warning 0"},
		{[]string{"x,y/a", "x/a", "x/a"}, "1 warning 0, 2 fault 1"},
		{[]string{"~/a/.*", "/*"}, "0 warning 1"},
		{[]string{"~/a/.*", "/a/*"}, "0 warning 1"},
		{[]string{"~/a", "/a/*"}, "0 warning 1"},
		{[]string{"~/a/b/[0-9]", "/a/*"}, "0 warning 1"},
		{[]string{"~/a/b/[0-9]", "/b/*", "/a/{x}/*", "GET /a/*", "x/*"}, ""},
		{[]string{"GET ~/a/.* h:x=1", "GET /a/*"}, "0 warning 1"},
		{[]string{"~/ab.*", "/a/*"}, ""},
		{[]string{"~.*", "/a/*"}, ""},
		{[]string{"x,y~/a", "x,y,z~/a"}, ""},
		{[]string{"x,y,z~/a", "x,y~/a"}, "1 warning 0"},
	} {
		_, clashes := New(entries(c.routes...))
		var got []string
		for _, f := range clashes {
			kind := "fault"
			if f.Warning {
				kind = "warning"
			}
			got = append(got, fmt.Sprintf("%d %s %d", f.Index, kind, f.Other))
			if !strings.Contains(f.Text, quote(c.routes[f.Other])) {
				t.Errorf("%q: %q does not name the other route", c.routes, f.Text)
			}
		}
		if got := strings.Join(got, ", "); got != c.want {
			t.Errorf("%q: %q, want %q", c.routes, got, c.want)
		}
	}
}

func TestExplain(t *testing.T) {
	table := table(t,
		"/*",
		"shop.example.com/products/*",
		"GET shop.example.com/products/{id}",
		"GET shop.example.com/products/{id} h:x-beta=true",
		"POST shop.example.com/products/{id}",
		"*.example.com/products/7",
		"shop.example.com/payments/*",
		"api.example.com,api2.example.com/products/7",
	)
	want := []string{
		`GET shop.example.com/products/{id} h:x-beta=true: condition: it does not hold that header x-beta is "true"`,
		`GET shop.example.com/products/{id}: won: takes it: shop.example.com, path /products/{id}`,
		`POST shop.example.com/products/{id}: method: method GET is not POST`,
		`shop.example.com/products/*: order: route "GET shop.example.com/products/{id}" takes it first: the longer prefix comes first`,
		`shop.example.com/payments/*: path: path "/products/7" does not match /payments/*`,
		`*.example.com/products/7: order: route "GET shop.example.com/products/{id}" takes it first: shop.example.com comes before *.example.com`,
		`/*: order: route "GET shop.example.com/products/{id}" takes it first: shop.example.com comes before any host`,
		`api.example.com,api2.example.com/products/7: host: host "shop.example.com" is not api.example.com or api2.example.com`,
	}
	var got []string
	for _, c := range table.Explain(&exchange.Exchange{Request: *request("GET shop.example.com/products/7")}) {
		got = append(got, fmt.Sprintf("%s: %s: %s", c.Name, c.Outcome, c.Reason))
	}
	if !slices.Equal(got, want) {
		t.Errorf("Explain:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestParams(t *testing.T) {
	for _, c := range []struct {
		match *config.Match
		want  string
	}{
		{short("/a"), ""},
		{short("/a/*"), "rest"},
		{short("/a/{x}/{y...}"), "x y rest"},
		{short("/a/{rest...}"), "rest"},
		{short("/a/{rest}"), "rest"},
		{short("~/(?P<a>.)(.)(?P<b>.)"), "a b"},
		{&config.Match{}, "rest"},
		{nil, ""},
		{&config.Match{PathRegex: "("}, ""},
	} {
		if got := strings.Join(Params(c.match), " "); got != c.want {
			t.Errorf("Params(%+v) = %q, want %q", c.match, got, c.want)
		}
	}
}
