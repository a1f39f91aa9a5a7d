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
		x := exchange.Get()
		x.Request.Method, x.Request.Path, x.Request.RawPath = "POST", path, path
		if m := table.Match(x); m.Kind != Found || x.Route.Name != want {
			t.Errorf("%s: %q", path, x.Route.Name)
		}
		exchange.Put(x)
	}
}
