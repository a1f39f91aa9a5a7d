package config

import (
	"reflect"
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	keys := strings.Fields("address engine limits name policies trusted_proxies header_bytes headers")
	for word, want := range map[string]string{
		"adddress":        "address",
		"adrress":         "address",
		"Address":         "address",
		"trusted-proxies": "trusted_proxies",
		"trustedProxy":    "trusted_proxies",
		"limtis":          "limits",
		"header":          "headers",
		"headerBytes":     "header_bytes",
		"nam":             "name",
		"tls":             "",
		"x":               "",
		"":                "",
		"protocols":       "",
		"policy":          "policies",
	} {
		if got := nearest(word, keys); got != want {
			t.Errorf("%q is taken for %q, want %q", word, got, want)
		}
	}
	if got := nearest(strings.Repeat("a", 1000), []string{"a" + strings.Repeat("b", 999)}); got != "" {
		t.Errorf("a word without end is near to %q", got)
	}
}

// What is said not to be available must not be.
func TestLater(t *testing.T) {
	for _, typ := range []reflect.Type{
		reflect.TypeFor[Config](), reflect.TypeFor[Listener](), reflect.TypeFor[Upstream](), reflect.TypeFor[Endpoint](),
		reflect.TypeFor[Route](), reflect.TypeFor[Match](), reflect.TypeFor[Observe](),
	} {
		for _, f := range Fields(typ) {
			if later(typ.Name(), f.Key) {
				t.Errorf("%s of %s is called not available", f.Key, typ.Name())
			}
			for _, e := range f.Enum {
				if later(f.Key, e) {
					t.Errorf("%s of %s is called not available", e, f.Key)
				}
			}
		}
	}
	if !later("Observe", "tracing") || later("Observe", "trace") || later("nobody", "health") {
		t.Error("the table is not read")
	}
}
