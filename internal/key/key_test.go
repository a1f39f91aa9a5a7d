package key

import (
	"hash/maphash"
	"net/netip"
	"testing"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// TestClientsApart looks at which addresses are one client.
func TestClientsApart(t *testing.T) {
	seed := maphash.MakeSeed()
	key := func(addr string) uint64 {
		x := &exchange.Exchange{Client: &exchange.Client{Addr: netip.AddrPortFrom(netip.MustParseAddr(addr), 1)}}
		return By{}.Hash(x, seed)
	}
	for _, same := range [][2]string{
		{"192.0.2.1", "::ffff:192.0.2.1"},
		{"2001:db8::1", "2001:db8::ffff:1:2:3"},
	} {
		if key(same[0]) != key(same[1]) {
			t.Errorf("%s and %s are counted apart", same[0], same[1])
		}
	}
	for _, apart := range [][2]string{
		{"192.0.2.1", "192.0.2.2"},
		{"2001:db8::1", "2001:db8:0:1::1"},
		{"::1", "0.0.0.1"},
	} {
		if key(apart[0]) == key(apart[1]) {
			t.Errorf("%s and %s are counted together", apart[0], apart[1])
		}
	}
}

// TestKindsApart: what stands in a header is never taken for a name, and a
// subject never for a consumer.
func TestKindsApart(t *testing.T) {
	x := exchange.Get()
	x.Client = &exchange.Client{Addr: netip.MustParseAddrPort("192.0.2.1:80"), IP: "192.0.2.1"}
	x.Route.Name = "same"
	x.Request.Header.Add("X-Key", "same")
	seed := maphash.MakeSeed()
	texts, hashes := make(map[string]string), make(map[uint64]string)
	see := func(what, by string) {
		t.Helper()
		b, f := Parse(by)
		if f != nil {
			t.Fatal(f)
		}
		if first, ok := texts[b.Text(x)]; ok {
			t.Errorf("%s and %s make the same text", what, first)
		}
		if first, ok := hashes[b.Hash(x, seed)]; ok {
			t.Errorf("%s and %s make the same hash", what, first)
		}
		texts[b.Text(x)], hashes[b.Hash(x, seed)] = what, what
	}
	see("client", "client")
	see("route", "route")
	see("header", "header:X-Key")
	x.Who = exchange.Who{Subject: "same", Method: "jwt"}
	see("subject", "consumer")
	x.Who.Claims = map[string]any{"iss": "https://a.test"}
	see("subject of an issuer", "consumer")
	x.Who.Claims = map[string]any{"iss": "https://b.test"}
	see("subject of another issuer", "consumer")
	x.Who.Consumer = "same"
	see("consumer", "consumer")
	see("expression", "consumer.name")
	x.Request.Header.Add("X-Key", "more")
	see("two lines", "header:X-Key")
}

// TestMissing: without what it is counted by, a request counts for its client.
func TestMissing(t *testing.T) {
	x := exchange.Get()
	x.Client = &exchange.Client{Addr: netip.MustParseAddrPort("192.0.2.1:80")}
	seed := maphash.MakeSeed()
	for _, by := range []string{"consumer", "header:X-Key", "claim:tenant", "request.query.page"} {
		b, f := Parse(by)
		if f != nil {
			t.Fatal(f)
		}
		if b.Hash(x, seed) != (By{}).Hash(x, seed) || b.Text(x) != (By{}).Text(x) {
			t.Errorf("by %s a request that has none is not counted by its client", by)
		}
	}
}
