package router

import (
	"net/url"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// matched returns the request's route as Match fills it in.
func matched(t *testing.T, match string, r *exchange.Request) *exchange.Route {
	t.Helper()
	out := new(exchange.Route)
	if m := matching(table(t, match), r, out); m.Kind != Found {
		t.Fatalf("%q does not take %s", match, r.Path)
	}
	return out
}

func TestRewritePath(t *testing.T) {
	for _, c := range []struct {
		match, template, strip, path string
		want                         string // "" for a refusal
	}{
		{match: "/checkout/*", template: "/v2/{path}", strip: "/checkout", path: "/checkout/cart/1", want: "/v2/cart/1"},
		{match: "/checkout/*", template: "/v2/{path}", strip: "/checkout", path: "/checkout", want: "/v2/"},
		{match: "/checkout/*", template: "/v2/{path}", path: "/checkout/cart", want: "/v2/checkout/cart"},
		{match: "/a/*", template: "/b/{rest}", path: "/a/x/y/", want: "/b/x/y/"},
		{match: "/a/*", template: "/b/{rest}", path: "/a//x", want: "/b//x"},
		{match: "/a/*", template: "/b", path: "/a/x", want: "/b"},
		{match: "/u/{id}/o/{o}", template: "/o/{o}/of-{id}.json", path: "/u/7/o/9", want: "/o/9/of-7.json"},
		{match: "/u/{id}", template: "/x{id}y{id}", path: "/u/a%2Fb", want: "/xa%2Fbya%2Fb"},
		{match: "/f/{path...}", template: "/g/{path}", path: "/f/1/2", want: "/g/1/2"}, // the parameter hides the fixed one
		{match: "/f/{rest}/x/*", template: "/g/{rest}", path: "/f/1/x/2", want: "/g/1"},
		// Values are put in once.
		{match: "/a/{x}", template: "/b/{x}", path: "/a/%7Bx%7D", want: "/b/%7Bx%7D"},
		{match: "/a/{x}/{y}", template: "/{x}/{y}", path: "/a/%7By%7D/1", want: "/%7By%7D/1"},
		// Parts that are harmless one by one.
		{match: "~/a(?P<x>.*)b", template: "/in/{x}/c", path: "/a..b"},
		{match: "~/a(?P<x>.*)b", template: "/in/.{x}", path: "/a.b"},
		{match: "~/a(?P<x>.*)b", template: "/in/{x};v", path: "/a..b"},
		{match: "~/a(?P<x>.*)b", template: "/in/{x}%2Fc", path: "/a..b"},
		{match: "~/(?P<x>.*)F(?P<y>.*)", template: "/{x}e{y}", path: "/%2F"},
		{match: "~/(?P<x>.*)F(?P<y>.*)", template: "/{x}", path: "/%2F"},
		{match: "/a/*", template: "/b/.{rest}", path: "/a/"},
		{match: "~/a(?P<x>.*)b", template: "/in/x{x}y", path: "/a..b", want: "/in/x..y"},
	} {
		m := short(c.match)
		tmpl, err := ParsePath(c.template, Params(m))
		if err != nil {
			t.Errorf("ParsePath(%q): %v", c.template, err)
			continue
		}
		r := request(c.path)
		got, err := tmpl.Path(r, matched(t, c.match, r), StripPrefix(c.path, c.strip))
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s on %s: %q, %v; want %q", c.template, c.path, got, err, c.want)
		}
	}
}

func TestRedirect(t *testing.T) {
	for _, c := range []struct{ match, template, target, want string }{
		{"/old/*", "/new/{rest}", "a.b/old/x/y", "/new/x/y"},
		{"/old/*", "/new/{rest}", "a.b/old", "/new/"},
		{"/*", "https://{host}/{path}", "a.b/x/y", "https://a.b/x/y"},
		{"/*", "https://{host}:8443/{path}?{query}", "a.b/x?q=1&r=2", "https://a.b:8443/x?q=1&r=2"},
		{"/*", "https://{host}/{path}?{query}", "a.b/x", "https://a.b/x"},
		{"/*", "/n?a=1&{query}", "a.b/x", "/n?a=1"},
		{"/*", "/n?{query}&a=1", "a.b/x", "/n?&a=1"},
		{"/*", "https://[::1]/{host}", "[::1]/x", "https://[::1]/%5B::1%5D"},
		{"/u/{id}", "https://id.example.com/users/{id}#top", "a.b/u/7", "https://id.example.com/users/7#top"},
		// A local location stays on the host.
		{"/old/*", "/{rest}", "a.b/old//evil.example", "/evil.example"},
		{"/old/*", "/{rest}", "a.b/old////evil.example//x", "/evil.example//x"},
		{"/*", "/{path}", "a.b//evil.example", "/evil.example"},
		{"~/(?P<x>.*)to(?P<y>.*)", "/{x}/{y}", "a.b/to/evil.example", "/evil.example"},
		{"/old/*", "/new/{rest}", "a.b/old//x", "/new//x"},
		// A request without a host does not get one from its path.
		{"/*", "https://{host}/{path}", "//evil.example/", "https://host.invalid//evil.example/"},
		// A value in the query is one value.
		{"/*", "/login?next={path}&x=1", "a.b/a&admin=1;b=2+c", "/login?next=a%26admin%3D1%3Bb%3D2%2Bc&x=1"},
		{"/*", "/login?next=/{path}", "a.b/a/b%26c%20d", "/login?next=/a/b%26c%20d"},
		{"/*", "/x?{query}", "a.b/?a=\r\nSet-Cookie: x#\"<>é{path}", "/x?a=%0D%0ASet-Cookie:%20x%23%22%3C%3E%C3%A9%7Bpath%7D"},
		{"/a/{x}", "/b/{x}", "a.b/a/%7Bx%7D", "/b/%7Bx%7D"},
	} {
		tmpl, err := ParseRedirect(c.template, Params(short(c.match)))
		if err != nil {
			t.Errorf("ParseRedirect(%q): %v", c.template, err)
			continue
		}
		r := request(c.target)
		got := string(tmpl.Append([]byte("Location: "), r, matched(t, c.match, r), r.Path))
		if got != "Location: "+c.want {
			t.Errorf("%s on %s: %q, want %q", c.template, c.target, got, c.want)
		}
	}
}

func TestTemplateFaults(t *testing.T) {
	params := []string{"id", "category", "rest"}
	for _, c := range []struct{ template, want string }{
		{"v2/{id}", `does not begin with a slash (write "/v2/{id}")`},
		{"", "does not begin with a slash"},
		{"/v2/{catgory}", "unknown placeholder {catgory} (did you mean {category}?)"},
		{"/v2/{x}", "unknown placeholder {x} (there are {id}, {category}, {rest}, {path})"},
		{"/v2/{}", "unknown placeholder {}"},
		{"/v2/{host}", "unknown placeholder {host} ({host} is for redirects)"},
		{"/v2/{query}", "{query} is for redirects"},
		{"/v2/{id", "brace without its partner (a brace itself is written %7B or %7D)"},
		{"/v2/id}", "brace without its partner"},
		{"/v2/{{id}}", "unknown placeholder {{id}"},
		{"/v2/{id}?x=1", "query or fragment"},
		{"/v2/../{id}", "not normalised (leave out dot segments"},
		{"/v2/%7e/{id}", "not normalised"},
		{"/v2/%{id}", "percent sign without two"},
		{"/v2/%2{id}", "percent sign without two"},
		{"/a b", `must be percent-encoded (write "/a%20b")`},
		{`/a\b`, "backslash"},
		{"/..;/{id}", "disguised"},
	} {
		if _, err := ParsePath(c.template, params); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("ParsePath(%q): %v, want %q", c.template, err, c.want)
		}
	}
	if _, err := ParsePath("/v2/{rest}", nil); err == nil || !strings.Contains(err.Error(), "no trailing *") {
		t.Errorf("{rest} without a tail: %v", err)
	}
	for _, c := range []struct{ template, want string }{
		{"", "neither a path nor a URL"},
		{"new", `neither a path nor a URL of http or https (write "/new"`},
		{"{path}", "neither a path nor a URL"},
		{"ftp://a/b", "neither a path nor a URL"},
		{"javascript:alert(1)", "neither a path nor a URL"},
		{"{id}://a/b", "neither a path nor a URL"},
		{"//a.b/{path}", `leaves the scheme open (write "https://a.b/{path}")`},
		{"https://", "no host"},
		{"https:///{path}", "no host"},
		{"https://a.b{path}", "{path} in its host"},
		{"https://{id}.a.b/", "{id} in its host (only {host}"},
		{"https://a.b:{id}/", "{id} in its host"},
		{"/a/{query}", "{query} in its path (write it after a question mark"},
		{"/a/{pth}", "did you mean {path}?"},
		{"/a\r\nX: y", "must be percent-encoded"},
		{"/a b", "must be percent-encoded"},
		{"/é", "must be percent-encoded"},
		{`/\a`, "must be percent-encoded"},
		{"/a?x=%z", "percent sign without two"},
	} {
		if _, err := ParseRedirect(c.template, params); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("ParseRedirect(%q): %v, want %q", c.template, err, c.want)
		}
	}
}

// FuzzTemplate gives what a client controls to templates that put it in every
// place, cut up by regular expressions as badly as can be.
func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"/a/b", "//evil.example", "/..", "/%2F", "/a%2F.b", "/.;x", "/{rest}", "/%7Bx%7D"} {
		f.Add(s, "q=1", uint8(1), uint8(3))
	}
	var paths, redirects []*Template
	for _, s := range []string{"/in/{x}/{y}", "/in/{x}{y}{rest}", "/in/.{x}", "/in/{path}", "/in/%2{x}%2F{y}", "/in/{x};{y}"} {
		if tmpl, err := ParsePath(s, []string{"x", "y", "rest"}); err == nil {
			paths = append(paths, tmpl)
		}
	}
	for _, s := range []string{"/{x}/{y}", "/{rest}", "/{path}?{query}", "/n?a={x}&b={y}&{query}", "https://good.example/{x}{y}?c={rest}#{path}"} {
		tmpl, err := ParseRedirect(s, []string{"x", "y", "rest"})
		if err != nil {
			f.Fatal(err)
		}
		redirects = append(redirects, tmpl)
	}
	f.Fuzz(func(t *testing.T, raw, query string, i, j uint8) {
		path, err := Normalize(raw)
		if err != nil {
			return
		}
		cut := func(n uint8) int { return int(n) % (len(path) + 1) }
		r := &exchange.Request{Path: path, Query: query, Host: "shop.example"}
		route := &exchange.Route{Rest: path[min(cut(i), cut(j)):], Params: []exchange.Param{
			{Name: "x", Value: path[:cut(i)]}, {Name: "y", Value: path[cut(j):]},
		}}
		for _, tmpl := range paths {
			got, err := tmpl.Path(r, route, path)
			if err != nil {
				continue
			}
			if normal, err := Normalize(got); err != nil || normal != got || !strings.HasPrefix(got, "/in/") {
				t.Fatalf("%v on %q makes %q, normalised %q, %v", tmpl, path, got, normal, err)
			}
		}
		for _, tmpl := range redirects {
			got := string(tmpl.Append(nil, r, route, path))
			for k := 0; k < len(got); k++ {
				if got[k] <= ' ' || got[k] >= 0x7f || got[k] == '\\' {
					t.Fatalf("%v makes %q, which holds %q", tmpl, got, got[k])
				}
			}
			base := &url.URL{Scheme: "https", Host: "good.example"}
			u, err := base.Parse(got)
			if err != nil {
				continue // a percent-encoding that was cut apart
			}
			if u.Host != "good.example" || u.User != nil || u.Scheme != "https" {
				t.Fatalf("%v on %q makes %q, which leaves the host: %v", tmpl, path, got, u)
			}
		}
	})
}
