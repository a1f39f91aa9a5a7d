package gateway

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/exchange"
)

var proxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}

func TestLastUntrusted(t *testing.T) {
	for chain, want := range map[string]string{
		"":                                  "",
		"192.0.2.1":                         "192.0.2.1",
		"192.0.2.1, 10.0.0.1":               "192.0.2.1",
		"192.0.2.1,10.0.0.1,10.0.0.2":       "192.0.2.1",
		"1.1.1.1, 192.0.2.1, 10.0.0.1":      "192.0.2.1",
		"10.0.0.3, 10.0.0.2":                "10.0.0.3",
		"192.0.2.1:8080, 10.0.0.1:9":        "192.0.2.1",
		"[2001:db9::1]:443, 10.0.0.1":       "2001:db9::1",
		"[2001:db9::1], [2001:db8::2]":      "2001:db9::1",
		"2001:db9::1,\t2001:db8::2":         "2001:db9::1",
		"::ffff:192.0.2.1, ::ffff:10.0.0.1": "192.0.2.1",
		"fe80::1%eth0":                      "fe80::1",
		"192.0.2.1, junk, 10.0.0.1":         "10.0.0.1",
		"192.0.2.1, , 10.0.0.1":             "10.0.0.1",
		"192.0.2.1,":                        "",
		"junk":                              "",
		"[192.0.2.1]":                       "",
		"]2001:db9::1[":                     "",
		"[2001:db9::1":                      "",
		"192.0.2.1:port":                    "",
		"192.0.2.01":                        "",
		"192.0.2.1 10.0.0.1":                "",
	} {
		got := ""
		if a, ok := lastUntrusted(chain, proxies); ok {
			got = a.String()
		}
		if got != want {
			t.Errorf("%q: %q, want %q", chain, got, want)
		}
	}
}

func TestForwardedFor(t *testing.T) {
	for v, want := range map[string]string{
		"":                                      "",
		"for=192.0.2.1":                         "192.0.2.1",
		"For=192.0.2.1;proto=https;by=10.0.0.1": "192.0.2.1",
		"proto=https; for=192.0.2.1, for=10.0.0.1": "192.0.2.1, 10.0.0.1",
		`for="[2001:db8::1]:80"`:                   "[2001:db8::1]:80",
		"for=_hidden, for=unknown":                 "_hidden, unknown",
		"proto=https, for=10.0.0.1":                "unknown, 10.0.0.1",
		"for=1.1.1.1;for=2.2.2.2":                  "unknown",
		`for=", for=192.0.2.1`:                     `", 192.0.2.1`,
		"xfor=1.1.1.1":                             "unknown",
	} {
		if got := forwardedFor(v); got != want {
			t.Errorf("%q: %q, want %q", v, got, want)
		}
	}
}

// Connection may name thousands of fields; that takes no more than reading them.
func TestManyNamed(t *testing.T) {
	var h exchange.Header
	h.Add("Connection", strings.Repeat("x-a,", 10_000)+"X-Last")
	for range 50 {
		h.Add("X-LAST", "1")
		h.Add("X-Kept", "1")
	}
	dropNamed(&h)
	if h.Len() != 51 || h.Get("x-last") != "" {
		t.Errorf("%d fields are left", h.Len())
	}
}

// Whatever stands in the fields, and whoever sends them: what the service is
// told has one reading, and what an untrusted client wrote is not in it.
func FuzzForwarding(f *testing.F) {
	for _, v := range []string{"", "192.0.2.1", "1.1.1.1, 10.0.0.1", "[2001:db8::1]:80", "for=1.1.1.1", `for="[::1]:80";proto=https`, `for="`, "junk", "a.test:80", "https", "443"} {
		f.Add(v, v, v, true)
		f.Add(v, v, v, false)
	}
	f.Fuzz(func(t *testing.T, chain, forwarded, other string, trusted bool) {
		for _, v := range []string{chain, forwarded, other} {
			if strings.ContainsFunc(v, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) || strings.Trim(v, " \t") != v {
				return // no protocol lets that through
			}
		}
		x := exchange.Get()
		defer exchange.Put(x)
		peer := netip.MustParseAddrPort("10.0.0.9:1234")
		client := &exchange.Client{Addr: peer, Peer: peer, IP: "10.0.0.9", Port: "8080", Trusted: trusted, Proxies: proxies}
		x.Client = client
		x.Request.Scheme, x.Request.Authority, x.Request.Proto = "http", "shop.test", exchange.HTTP11
		h := &x.Request.Header
		h.Add("X-Forwarded-For", chain)
		h.Add("Forwarded", forwarded)
		for _, name := range []string{"X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Proto", "X-Real-IP", "X-Forwarded-Client-Cert", "X_Forwarded_For"} {
			h.Add(name, other)
		}
		cleanRequest(x)

		for _, k := range []exchange.Known{exchange.XForwardedFor, exchange.XForwardedHost, exchange.XForwardedPort, exchange.XForwardedProto, exchange.Forwarded, exchange.XRealIP} {
			if n := h.Count(k); n != 1 {
				t.Errorf("%v stands on %d lines", k, n)
			}
		}
		if h.Has(exchange.XForwardedClientCert) || h.Get("X_Forwarded_For") != "" {
			t.Error("a field that only the gateway may set is there")
		}
		ip := h.Known(exchange.XRealIP)
		if a, err := netip.ParseAddr(ip); err != nil || a != x.Client.Addr.Addr() || ip != x.Client.IP {
			t.Errorf("the client is %q in the field, %v and %q for the policies", ip, x.Client.Addr, x.Client.IP)
		}
		if p := h.Known(exchange.XForwardedProto); p != "http" && p != "https" {
			t.Errorf("the protocol is %q", p)
		}
		last := h.Known(exchange.XForwardedFor)
		if last = last[strings.LastIndexByte(last, ' ')+1:]; last != "10.0.0.9" {
			t.Errorf("the last hop is %q", last)
		}
		if again, _ := lastUntrusted(h.Known(exchange.XForwardedFor), proxies); trusted && again.String() != ip {
			t.Errorf("the next one to read the chain finds %v, and the gateway %s", again, ip)
		}
		if client.IP != "10.0.0.9" {
			t.Error("the facts of the connection were changed")
		}
		if trusted {
			return
		}
		if ip != "10.0.0.9" || h.Known(exchange.XForwardedFor) != "10.0.0.9" || h.Known(exchange.XForwardedHost) != "shop.test" ||
			h.Known(exchange.XForwardedPort) != "8080" || h.Known(exchange.Forwarded) != `for=10.0.0.9;proto=http;host="shop.test"` {
			t.Errorf("somebody who is not trusted was believed: %v", slices.Collect(h.Values("X-Forwarded-For")))
		}
	})
}

// A unix socket has no address: what a proxy on this machine tells is all that
// is known.
func TestUnixSocket(t *testing.T) {
	for chain, want := range map[string]string{"192.0.2.1": "192.0.2.1", "": ""} {
		x := exchange.Get()
		x.Client = &exchange.Client{Trusted: true}
		x.Request.Scheme = "http"
		if chain != "" {
			x.Request.Header.Add("X-Forwarded-For", chain)
		}
		cleanRequest(x)
		h := &x.Request.Header
		if h.Known(exchange.XForwardedFor) != want || h.Known(exchange.XRealIP) != want || strings.Contains(h.Known(exchange.Forwarded), "invalid") ||
			!strings.HasSuffix(h.Known(exchange.Forwarded), "for=unknown;proto=http") {
			t.Errorf("%q: %v", chain, h.Fields())
		}
		exchange.Put(x)
	}
}

func TestKeeper(t *testing.T) {
	var k keeper
	made := 0
	get := func(key string) any {
		v, err := k.get(key, func() (any, error) { made++; return made, nil })
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	k.begin()
	if get("a") != 1 || get("b") != 2 || get("a") != 1 {
		t.Error("a key does not lead to the same object")
	}
	k.commit()
	k.begin()
	if get("b") != 2 || get("c") != 3 {
		t.Error("an object did not live on")
	}
	k.discard()
	k.begin()
	if get("a") != 1 || get("c") != 4 {
		t.Error("what was given up was kept, or what was kept given up")
	}
	k.commit()
	k.begin()
	if get("b") != 5 {
		t.Error("what nobody asked for was kept")
	}
	k.discard()
	k.close()
	if len(k.live) != 0 {
		t.Errorf("%d objects outlive the end", len(k.live))
	}
}
