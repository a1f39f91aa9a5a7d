package router

import (
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
)

func TestWhen(t *testing.T) {
	on := func(path, when string) Entry {
		return Entry{Name: path + " " + when, Match: &config.Match{Path: path, When: when}}
	}
	table, clashes := New([]Entry{on("/*", ""), on("/*", `request.headers["x-plan"] == "gold"`), on("/in", `client.ip.inRange("10.0.0.0/8")`), on("/in", "")})
	if len(clashes) != 0 {
		t.Fatal(clashes)
	}
	for _, c := range []struct{ path, plan, ip, want string }{
		{"/x", "gold", "10.1.1.1", `/* request.headers["x-plan"] == "gold"`},
		{"/x", "tin", "10.1.1.1", "/* "},
		{"/x", "", "10.1.1.1", "/* "}, // an expression that fails does not hold
		{"/in", "", "10.1.1.1", `/in client.ip.inRange("10.0.0.0/8")`},
		{"/in", "", "192.0.2.1", "/in "},
	} {
		x := &exchange.Exchange{Request: exchange.Request{Method: "GET", Path: c.path}, Client: &exchange.Client{IP: c.ip}}
		if c.plan != "" {
			x.Request.Header.Add("X-Plan", c.plan)
		}
		if table.Match(x); x.Route.Name != c.want {
			t.Errorf("%+v: %q", c, x.Route.Name)
		}
	}
	_, clashes = New([]Entry{on("/a", "request.path == 1"), on("/b", "claims.x == 1"), on("/c", "client.tls"), on("/c", "client.tls")})
	if len(clashes) != 3 || clashes[0].Field != "match.when" || !strings.Contains(clashes[1].Text, "claims") || clashes[2].Other != 2 {
		t.Errorf("%+v", clashes)
	}
}
