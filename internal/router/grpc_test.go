package router

import (
	"testing"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
)

// A match of gRPC is one of the path that a call has.
func TestMatchOfGRPC(t *testing.T) {
	call := func(service, method string) *config.Match {
		return &config.Match{GRPC: &config.GRPCMatch{Service: service, Method: method}}
	}
	table, clashes := New([]Entry{
		{Name: "service", Match: call("shop.v1.Products", "")},
		{Name: "method", Match: call("shop.v1.Products", "Get")},
		{Name: "rest", Match: short("/*")},
	})
	if len(clashes) > 0 {
		t.Fatal(clashes)
	}
	for path, want := range map[string]string{
		"/shop.v1.Products/Get": "method", "/shop.v1.Products/List": "service",
		"/shop.v1.ProductsX/Get": "rest", "/shop.v1.Products/Get/x": "service", "/shop.v1.products/Get": "rest",
	} {
		r := exchange.Request{Method: "POST", Path: path, RawPath: path}
		var route exchange.Route
		if m := table.Match(&r, &route); m.Kind != Found || route.Name != want {
			t.Errorf("%s: %q", path, route.Name)
		}
	}
}
