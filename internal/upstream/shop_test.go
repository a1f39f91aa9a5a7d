package upstream

import (
	"os"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/policy"
)

// The demo's promise: with its own settings one of two products instances is
// killed under load, and comes back, and no request fails.
func TestShopLosesNoRequest(t *testing.T) {
	src, err := os.ReadFile("../../examples/shop/gatehouse.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(src), "\nupstreams:\n")
	text, _, _ = strings.Cut(text, "\n# Policies of every route.")
	one, two := newMortal(t, "127.0.0.1:0", polite), newMortal(t, "127.0.0.1:0", polite)
	text = strings.NewReplacer("127.0.0.1:9001", one.address, "127.0.0.1:9004", two.address).Replace(text)
	cfg, faults := config.Parse("shop.yaml", []byte("routes: []\nupstreams:\n"+text), policy.NewCatalog())
	if faults.Fatal() {
		t.Fatal(faults)
	}
	products := cfg.Upstream("products")
	if len(products.Endpoints) != 2 || products.Retry == nil || products.Health == nil {
		t.Fatalf("the shop's products are %+v", products)
	}
	c := &chaos{t: t, method: "GET", client: plainClient()}
	c.r = newRig(t, products)
	c.beside(func(stop <-chan struct{}) {
		pause(stop, 50*ms)
		two.kill()
		pause(stop, 100*ms)
		two.revive()
	})
	c.send(400, 8)
	if n := c.failures.Load(); n != 0 {
		t.Errorf("%d of %d requests failed, none may", n, c.requests.Load())
	}
}
