package router

import (
	"fmt"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
)

// service returns n routes as a large installation has them: exact paths,
// paths with parameters and prefixes on a few hosts.
func service(n int) []Entry {
	list := make([]Entry, n)
	for i := range list {
		var m config.Match
		switch i % 3 {
		case 0:
			m.Path = fmt.Sprintf("/api/v1/service-%06d/status", i)
		case 1:
			m.Path = fmt.Sprintf("/api/v1/service-%06d/users/{user}/orders/{order}", i)
			m.Methods = config.StringList{"GET"}
		case 2:
			m.Path = fmt.Sprintf("/api/v1/service-%06d/*", i)
		}
		m.Host = config.StringList{fmt.Sprintf("host-%03d.example.com", i/1000)}
		list[i] = Entry{Name: fmt.Sprintf("route-%d", i), Match: &m}
	}
	return list
}

var kinds = []struct {
	name, path string
	index      int // modulo 3
}{
	{"exact", "/api/v1/service-%06d/status", 0},
	{"params", "/api/v1/service-%06d/users/4711/orders/42", 1},
	{"prefix", "/api/v1/service-%06d/css/main.css", 2},
}

func TestMatchDoesNotAllocate(t *testing.T) {
	large, clashes := New(service(10_000))
	if len(clashes) != 0 {
		t.Fatal(clashes[0])
	}
	x := &exchange.Exchange{Route: exchange.Route{Params: make([]exchange.Param, 0, 8)}}
	check := func(name string, table *Table, r *exchange.Request, want string) {
		t.Helper()
		if got := outcome(table, r); got != want {
			t.Fatalf("%s: %q wins, want %q", name, got, want)
		}
		x.Request = *r
		if allocs := testing.AllocsPerRun(100, func() { table.Match(x) }); allocs != 0 {
			t.Errorf("%s: %v allocations, want 0", name, allocs)
		}
	}
	for _, k := range kinds {
		i := 3333*3%9000 + k.index
		r := request(fmt.Sprintf("host-%03d.example.com"+k.path, i/1000, i))
		check(k.name, large, r, fmt.Sprintf("route-%d", i))
	}
	rules := table(t, "*.example.com/x h:a=~[0-9]+ h:accept q:b=~[0-9]+ q:é=ü c:c=1", "~/re/[a-z]+", "/y/*")
	check("conditions", rules, request("a.b.example.com/x?x=1&b=17&%C3%a9=%c3%BC", "A: x", "a: 1", "Accept: *", "Cookie: a=b; c=1"),
		"*.example.com/x h:a=~[0-9]+ h:accept q:b=~[0-9]+ q:é=ü c:c=1")
	check("regex", rules, request("/re/abc"), "~/re/[a-z]+")
	check("no route", rules, request("a.example.com/none/at/all"), "404")
}

// counter is a predicate that counts how often it is asked.
type counter struct {
	asked  *int
	answer bool
}

func (c counter) holds(*exchange.Exchange) bool { *c.asked++; return c.answer }
func (c counter) subject() string               { return "counter" }
func (c counter) implies(predicate) bool        { return false }
func (c counter) String() string                { return "counter" }

// Prefixes in which every segment is either literal or a parameter make a full
// binary tree, all of which a path of literals fits: the worst that patterns
// can do to a search that has to step back. Each route must be asked once at
// most, however long the path, and few where one of them takes the request.
func TestMatchIsNotExponential(t *testing.T) {
	const depth = 11
	var list []Entry
	for d := 1; d <= depth; d++ {
		for i := range 1 << d {
			var b strings.Builder
			for bit := range d {
				if i>>bit&1 == 1 {
					b.WriteString("/a")
				} else {
					fmt.Fprintf(&b, "/{p%d}", bit)
				}
			}
			list = append(list, Entry{Name: b.String(), Match: &config.Match{Path: b.String() + "/*"}})
		}
	}
	table, clashes := New(list)
	if len(clashes) != 0 {
		t.Fatal(clashes[0])
	}
	a := func(n int) string { return strings.Repeat("/a", n) }
	for _, c := range []struct {
		path  string
		holds bool
		want  string
		most  int
	}{
		{a(depth), false, "404", len(list)},
		{a(4000), false, "404", len(list)},
		{strings.Repeat("/x", 4000), false, "404", depth},
		{a(4000), true, a(depth), 1},
		{"/x" + a(4000), true, "/{p0}" + a(depth-1), 1},
		{a(5) + "/x" + a(4000), true, a(5) + "/{p5}" + a(depth-6), 1},
	} {
		asked := 0
		for _, r := range table.routes {
			r.predicates = []predicate{counter{&asked, c.holds}}
		}
		if got := outcome(table, request(c.path)); got != c.want {
			t.Errorf("%.40s: %q wins, want %q", c.path, got, c.want)
		}
		if asked > c.most {
			t.Errorf("%.40s: %d routes asked, want at most %d", c.path, asked, c.most)
		}
	}
}

func TestCompilingIsLinearInClashes(t *testing.T) {
	// All of one path, told apart by a header: the group that a naive search
	// for hidden routes would compare pair by pair.
	const n = 20_000
	list := make([]Entry, n)
	for i := range list {
		value := fmt.Sprint("tenant-", i)
		v := &config.ValueMatch{Exact: &value}
		if i%2 == 1 {
			v = &config.ValueMatch{Regex: value + "[a-z]"}
		}
		list[i] = Entry{Name: value, Match: &config.Match{Path: "/*", Headers: map[string]*config.ValueMatch{"X-Tenant": v}}}
	}
	list[n-1] = Entry{Name: "twin", Match: list[0].Match}
	_, clashes := New(list)
	if len(clashes) != 1 || clashes[0].Index != n-1 || clashes[0].Other != 0 || clashes[0].Warning {
		t.Errorf("clashes: %+v", clashes)
	}
}

func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{10, 10_000, 100_000} {
		table, _ := New(service(n))
		for _, k := range kinds {
			i := (n/2)/3*3 + k.index
			r := request(fmt.Sprintf("host-%03d.example.com"+k.path, i/1000, i))
			b.Run(fmt.Sprintf("%s/%d", k.name, n), func(b *testing.B) {
				b.ReportAllocs()
				x := &exchange.Exchange{Request: *r, Route: exchange.Route{Params: make([]exchange.Param, 0, 8)}}
				for b.Loop() {
					if m := table.Match(x); m.Kind != Found || x.Route.Index != i {
						b.Fatal(m, x.Route)
					}
				}
			})
		}
	}
}

func BenchmarkNormalize(b *testing.B) {
	for _, c := range []struct{ name, path string }{
		{"normal", "/api/v1/service-17/users/4711/orders/42"},
		{"rewritten", "/api/v1/../v2/service-17/%75sers/4711/orders%2f42"},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Normalize(c.path); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkNew(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		list := service(n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				New(list)
			}
		})
	}
}
