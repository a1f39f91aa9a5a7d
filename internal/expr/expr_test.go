package expr

import (
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/exchange"
)

func request() *exchange.Exchange {
	x := new(exchange.Exchange)
	x.Request.Reset()
	x.Request.Method, x.Request.Host, x.Request.Path = "POST", "shop.example.com", "/orders/7"
	x.Request.Scheme, x.Request.Proto = "https", exchange.HTTP11
	x.Request.Query, x.Request.Length = "page=2&tag=a&tag=b&odd=%zz&sp=a+b%21", 12
	x.Request.Header.Add("X-Plan", "gold")
	x.Request.Header.Add("X-Many", "a")
	x.Request.Header.Add("x-many", "b")
	x.Request.Header.Add("Cookie", "beta=1; theme=dark")
	x.Client = &exchange.Client{Addr: netip.MustParseAddrPort("10.1.2.3:555"), IP: "10.1.2.3", Listener: "public", TLS: &exchange.TLS{ServerName: "shop.example.com"}}
	x.Route = exchange.Route{Name: "orders", Rest: "7", Params: []exchange.Param{{Name: "tenant", Value: "acme"}}}
	x.Who = exchange.Who{
		Consumer: "mobile", Method: "jwt", Groups: []string{"partners", "beta"}, Scopes: []string{"read"},
		Labels: map[string]string{"plan": "gold"}, Claims: map[string]any{"tenant": "acme", "level": int64(3), "roles": []any{"admin"}, "org": map[string]any{"id": "o1"}, "score": 0.5, "none": nil},
	}
	return x
}

func TestHolds(t *testing.T) {
	for source, want := range map[string]bool{
		`request.method == "POST"`:                                          true,
		`request.headers["x-plan"] == "gold"`:                               true,
		`request.headers["X-PLAN"] == "gold"`:                               true,
		`"x-none" in request.headers`:                                       false,
		`has(request.headers.accept)`:                                       false,
		`request.headers["x-many"] == "a, b"`:                               true,
		`request.headers["x-many"] == "a"`:                                  false,
		`request.headers.exists(k, k == "x-plan")`:                          true,
		`size(request.headers) == 3`:                                        true,
		`request.query.page == "2" && request.query["tag"] == "a, b"`:       true,
		`request.query.odd == "%zz" && request.query.sp == "a b!"`:          true,
		`request.cookies.theme == "dark"`:                                   true,
		`request.path.startsWith("/orders/")`:                               true,
		`request.path.matches("^/orders/[0-9]+$")`:                          true,
		`request.size < 100 && request.protocol == "HTTP/1.1"`:              true,
		`request.time > timestamp("2020-01-01T00:00:00Z")`:                  true,
		`route.params.tenant == "acme" && route.name == "orders"`:           true,
		`client.ip.inRange("10.0.0.0/8")`:                                   true,
		`client.ip.inRange("192.168.0.0/16")`:                               false,
		`"10.1.1.1".inRange("10.0.0.0/8")`:                                  true,
		`["::1", client.ip].exists(a, a.inRange("10.1.2.3"))`:               true,
		`(client.tls ? "::1" : client.ip).inRange("::/64")`:                 true,
		`client.tls && client.server_name == request.host`:                  true,
		`"partners" in consumer.groups`:                                     true,
		`consumer.groups.exists(g, g.startsWith("b")) && route.rest == "7"`: true,
		`request.host.split(".")[0] == "shop"`:                              true,
		`request.method in ["GET", "HEAD"]`:                                 false,
		`claims.tenant == route.params.tenant && claims.level >= 3`:         true,
		`"admin" in claims.roles && claims.org.id == "o1"`:                  true,
		`claims["score"] < 1.0 && claims.none == null`:                      true,
		`has(claims.other) || !("other" in claims)`:                         true,
		`"read" in consumer.scopes && consumer.labels.plan == "gold"`:       true,
	} {
		p, err := Compile(source, Bool)
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		got, err := p.Holds(request())
		if err != nil || got != want {
			t.Errorf("%s: %v, %v", source, got, err)
		}
	}
}

// What is absent is never equal to something else that is absent.
func TestAbsentFails(t *testing.T) {
	for _, source := range []string{
		`claims.tenant == route.params.none`,
		`request.headers["x-none"] == request.headers["x-none2"]`,
		`request.headers["x-none"] != "gold"`,
		`claims.admin`,
		`request.query.none == ""`,
		`[request] == [request]`,
	} {
		p, err := Compile(source, Bool)
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		if ok, err := p.Holds(request()); ok || err == nil {
			t.Errorf("%s: %v, %v", source, ok, err)
		}
	}
}

func TestText(t *testing.T) {
	for source, want := range map[string]string{
		`client.ip + "/" + request.method`: "10.1.2.3/POST",
		`request.size`:                     "12",
		`client.tls`:                       "true",
		`consumer.name`:                    "mobile",
	} {
		p, err := Compile(source, Text)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := p.Text(request()); err != nil || got != want {
			t.Errorf("%s: %q, %v", source, got, err)
		}
	}
}

func TestFaults(t *testing.T) {
	for source, want := range map[string]string{
		``:                       "empty",
		`request.metod == "GET"`: "undefined field 'metod'",
		`user.name == "x"`:       "undeclared reference to 'user'",
		`request.path`:           "yields string where a truth value is wanted",
		`request.path == 3`:      "no matching overload",
		`request.path ==`:        "at line 1 column",
		`request.path.matches(request.headers["x-p"])`:                 "has to be written out",
		`request.path.matches("(")`:                                    "missing closing",
		`client.ip.inRange("10.0.0.1/8")`:                              "not a range",
		`request.path.replace("a", request.host) == ""`:                "what replace puts in has to be written out",
		`request.path.split("/").join(request.host) == ""`:             "what join puts in has to be written out",
		`client.ip.inRange(request.path)`:                              "has to be written out",
		strings.Repeat("[", 100) + strings.Repeat("]", 100) + " == []": "",
		`true` + strings.Repeat(` && true`, 2000):                      "longer than",
	} {
		_, err := Compile(source, Bool)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: %v, want %q", source, err, want)
		}
	}
	if _, err := Compile(`request.headers`, Text); err == nil {
		t.Error("a map is no text")
	}
}

func TestUses(t *testing.T) {
	p, err := Compile(`claims.x == route.name || client.tls`, Bool)
	if err != nil {
		t.Fatal(err)
	}
	if p.Uses() != Claims|Route|Client || p.Uses().String() != "route, client, claims" {
		t.Errorf("uses %s", p.Uses())
	}
}

// An expression whose cost grows with what a client sends is stopped.
func TestCost(t *testing.T) {
	p, err := Compile(`request.headers.all(a, request.headers.all(b, request.headers.all(c, a + b + c != "")))`, Bool)
	if err != nil {
		t.Fatal(err)
	}
	x := request()
	for i := range 100 {
		x.Request.Header.Add("X-"+strings.Repeat("f", i+1), "v")
	}
	if _, err := p.Holds(x); err == nil || !strings.Contains(err.Error(), "cost limit") {
		t.Errorf("%v", err)
	}
}

func FuzzCompile(f *testing.F) {
	f.Add(`request.headers["x-plan"] == "gold"`)
	f.Add(`claims.tenant == route.params.tenant && client.ip.inRange("10.0.0.0/8")`)
	f.Add(`request.query.all(k, size(k) < 10)`)
	f.Fuzz(func(t *testing.T, source string) {
		p, err := Compile(source, Bool)
		if err != nil {
			return
		}
		if _, err := p.Holds(request()); err != nil && strings.Contains(err.Error(), "internal error") {
			t.Errorf("%q: %v", source, err)
		}
	})
}

func FuzzRequest(f *testing.F) {
	p, err := Compile(`request.query.exists(k, k == "a") || request.cookies.exists(k, k == "a") || request.headers["x"] == request.path`, Bool)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("a=b&c", "a=1; b", "x", "/p")
	f.Fuzz(func(t *testing.T, query, cookie, field, path string) {
		x := request()
		x.Request.Query, x.Request.Path = query, path
		x.Request.Header.Add("Cookie", cookie)
		x.Request.Header.Add("X", field)
		if ok, err := p.Holds(x); err != nil && ok {
			t.Error("an error and yet it holds")
		}
	})
}

func BenchmarkHolds(b *testing.B) {
	for _, source := range []string{
		`request.method == "POST"`,
		`request.headers["x-plan"] == "gold" && "partners" in consumer.groups`,
		`route.params.tenant == "acme" && request.path.startsWith("/orders/") && client.ip.inRange("10.0.0.0/8")`,
	} {
		b.Run(source, func(b *testing.B) {
			p, err := Compile(source, Bool)
			if err != nil {
				b.Fatal(err)
			}
			x := request()
			b.ReportAllocs()
			for b.Loop() {
				if ok, err := p.Holds(x); !ok || err != nil {
					b.Fatal(ok, err)
				}
			}
		})
	}
}

// A name that a client sends thousands of times costs what is as long as it, and
// not its square.
func TestRepeatedNames(t *testing.T) {
	const n = 10_000
	x := exchange.Get()
	defer exchange.Put(x)
	x.Client = new(exchange.Client)
	x.Request.Query, x.Request.HasQuery = strings.Repeat("a=bc&", n), true
	x.Request.Header.Add("Cookie", strings.Repeat("a=bc; ", n))
	for range n {
		x.Request.Header.Add("X-A", "bc")
	}
	for _, source := range []string{
		"request.query.a.endsWith('bc')", "request.cookies.a.endsWith('bc')", "request.headers['x-a'].endsWith('bc')",
		"request.query.all(n, n == 'a')", "request.headers.exists(n, n == 'x-a')",
	} {
		p, err := Compile(source, Bool)
		if err != nil {
			t.Fatal(err)
		}
		ok := false
		bytes := allocated(func() { ok, err = p.Holds(x) })
		if !ok || err != nil {
			t.Errorf("%s: %v, %v", source, ok, err)
		}
		if bytes > 2<<20 {
			t.Errorf("%s allocates %d bytes for a name that stands %d times", source, bytes, n)
		}
	}
}

func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}
