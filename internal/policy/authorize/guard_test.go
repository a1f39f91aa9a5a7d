package authorize

import (
	"errors"
	"fmt"
	"testing"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

type list = policy.StringList

func compile(t testing.TB, c *Config) *guard {
	t.Helper()
	p, err := c.Compile(&policy.Env{})
	if err != nil {
		t.Fatal(err)
	}
	return p.(*guard)
}

func caller() *exchange.Exchange {
	x := new(exchange.Exchange)
	x.Request.Reset()
	x.Request.Method, x.Request.Path = "GET", "/acme/orders"
	x.Client = &exchange.Client{IP: "192.0.2.1"}
	x.Route.Params = []exchange.Param{{Name: "tenant", Value: "acme"}}
	x.Who = exchange.Who{
		Consumer: "mobile", Method: "jwt", Groups: []string{"partners", "beta"}, Scopes: []string{"read", "write"},
		Claims: map[string]any{"tenant": "acme", "roles": []any{"clerk", "admin"}, "level": int64(3), "staff": true, "empty": "", "org": map[string]any{}, "none": nil, "rate": 1.5},
	}
	return x
}

func TestJudge(t *testing.T) {
	for i, c := range []struct {
		config Config
		want   error
	}{
		{Config{}, nil},
		{Config{Consumers: list{"web", "mobile"}}, nil},
		{Config{Consumers: list{"web"}}, errConsumer},
		{Config{Groups: list{"beta", "x"}}, nil},
		{Config{Groups: list{"x"}}, errGroup},
		{Config{Scopes: list{"read", "write"}}, nil},
		{Config{Scopes: list{"read", "admin"}}, errScope},
		{Config{Claims: map[string]list{"tenant": {"acme", "other"}}}, nil},
		{Config{Claims: map[string]list{"tenant": {"other"}}}, errClaim},
		{Config{Claims: map[string]list{"roles": {"admin"}, "level": {"3"}, "staff": {"true"}, "rate": {"1.5"}}}, nil},
		{Config{Claims: map[string]list{"roles": {"admin"}, "level": {"4"}}}, errClaim},
		{Config{Claims: map[string]list{"absent": {"x"}}}, errClaim},
		{Config{Claims: map[string]list{"org": {"x"}}}, errClaim},
		{Config{Claims: map[string]list{"none": {"x"}}}, errClaim},
		{Config{Claims: map[string]list{"empty": {"x"}}}, errClaim},
		{Config{When: "claims.tenant == route.params.tenant"}, nil},
		{Config{When: "claims.tenant == 'other'"}, errWhen},
		{Config{Groups: list{"partners"}, Scopes: list{"read"}, When: "claims.tenant == route.params.tenant"}, nil},
		{Config{Groups: list{"partners"}, Scopes: list{"read"}, When: "false"}, errWhen},
		{Config{Groups: list{"partners"}, Deny: Deny{Consumers: list{"mobile"}}}, errDenied},
		{Config{Consumers: list{"mobile"}, Deny: Deny{Groups: list{"beta"}}}, errDenied},
		{Config{Scopes: list{"read"}, Deny: Deny{Scopes: list{"write"}}}, errDenied},
		{Config{Deny: Deny{Claims: map[string]list{"roles": {"clerk"}}}}, errDenied},
		{Config{Deny: Deny{Claims: map[string]list{"roles": {"guest"}}}}, nil},
		{Config{Deny: Deny{When: "request.method == 'GET'"}}, errDenied},
		{Config{Deny: Deny{When: "request.method == 'PUT'"}}, nil},
	} {
		if got := compile(t, &c.config).judge(caller()); !errors.Is(got, c.want) {
			t.Errorf("%d: %+v: %v, want %v", i, c.config, got, c.want)
		}
	}
}

// TestFailsClosed: what cannot be evaluated, and nobody, may nothing.
func TestFailsClosed(t *testing.T) {
	for _, c := range []Config{
		{When: "claims.absent == 'x'"},
		{When: "claims.absent != 'x'"},
		{When: "claims.tenant == route.params.absent"},
		{Deny: Deny{When: "claims.absent == 'x'"}},
		{When: "claims.tenant"},
	} {
		if compile(t, &c).judge(caller()) == nil {
			t.Errorf("%+v lets a request through", c)
		}
	}
	nobody := new(exchange.Exchange)
	nobody.Request.Reset()
	nobody.Client = new(exchange.Client)
	for _, c := range []Config{
		{},
		{Consumers: list{"mobile"}},
		{Groups: list{"partners"}},
		{Scopes: list{"read"}},
		{Claims: map[string]list{"tenant": {"acme"}}},
		{When: "claims.tenant == 'acme'"},
		{When: "claims.tenant == route.params.tenant"},
		{DryRun: false, When: "consumer.labels.plan == 'gold'"},
	} {
		if compile(t, &c).judge(nobody) == nil {
			t.Errorf("%+v lets nobody through", c)
		}
	}
}

func TestPlainPathDoesNotAllocate(t *testing.T) {
	g := compile(t, &Config{Groups: list{"beta"}, Scopes: list{"read"}, Claims: map[string]list{"tenant": {"acme"}}, Deny: Deny{Groups: list{"blocked"}}})
	x := caller()
	if n := testing.AllocsPerRun(100, func() { g.Request(x) }); n != 0 || x.Problem != nil {
		t.Errorf("%v allocations, %v", n, x.Problem)
	}
}

func BenchmarkAuthorize(b *testing.B) {
	many := list{}
	for i := range 10_000 {
		many = append(many, fmt.Sprint("consumer-", i))
	}
	many = append(many, "mobile")
	for name, c := range map[string]*Config{
		"groups and scopes": {Groups: list{"partners"}, Scopes: list{"read"}},
		"10000 consumers":   {Consumers: many},
		"claims":            {Claims: map[string]list{"tenant": {"acme"}}},
		"cel":               {When: "claims.tenant == route.params.tenant"},
	} {
		b.Run(name, func(b *testing.B) {
			g, x := compile(b, c), caller()
			b.ReportAllocs()
			for b.Loop() {
				if g.Request(x) != policy.Next {
					b.Fatal(x.Problem)
				}
			}
		})
	}
}
