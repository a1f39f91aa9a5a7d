package apikey_test

import (
	"fmt"
	"runtime"
	"testing"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/consumer"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

func Test(t *testing.T) {
	policytest.Run(t, policytest.Suite{Catalog: all.Catalog(), Kind: "api_key", Settings: "{ optional: true }"})
}

const text = `
consumers:
  - name: mobile
    groups: [partners]
    credentials:
      - api_key: { hash: "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae" }
routes:
  - match: /*
    upstream: http://up
    policies: [ api_key: { headers: { X-Who: consumer } } ]
`

var key = exchange.Field{Name: "X-API-Key", Value: "foo"}

func TestPlainPathAllocates(t *testing.T) {
	if raced {
		t.Skip("the race detector allocates")
	}
	serve := policytest.PlainWith(t, all.Catalog(), text, nil, key)
	without := policytest.PlainWith(t, all.Catalog(), "routes:\n  - match: /*\n    upstream: http://up\n", nil, key)
	if more := testing.AllocsPerRun(200, serve) - testing.AllocsPerRun(200, without); more > 0 {
		t.Errorf("%v allocations a request", more)
	}
}

// BenchmarkRequest shows what the policy adds to a request, with a million
// keys beside the one that is used, and without them: on a connection that
// brings the same key again.
func BenchmarkRequest(b *testing.B) {
	secret := consumer.NewKey()
	key := exchange.Field{Name: "X-API-Key", Value: secret}
	for _, keys := range []int{0, 1_000_000} {
		b.Run(fmt.Sprintf("keys=%d", keys), func(b *testing.B) {
			index := consumer.New()
			services := func(name string) any {
				if name == "consumers" {
					return index
				}
				return nil
			}
			const route = "routes:\n  - match: /*\n    upstream: http://up\n"
			with := policytest.PlainWith(b, all.Catalog(), route+"    policies: [ api_key: {} ]\n", services, key)
			without := policytest.PlainWith(b, all.Catalog(), route, services, key)
			cfg := new(config.Config)
			for i := range keys {
				hash := fmt.Sprintf("%016x%048d", uint64(i)*0x9e3779b97f4a7c15, 0)
				cfg.Consumers = append(cfg.Consumers, &config.Consumer{Name: fmt.Sprint(i), Credentials: []*config.Credential{{APIKey: &config.APIKey{Hash: "sha256:" + hash}}}})
			}
			cfg.Consumers = append(cfg.Consumers, &config.Consumer{Name: "mobile", Credentials: []*config.Credential{{APIKey: &config.APIKey{Hash: consumer.HashKey(secret)}}}})
			change, faults := index.Prepare(cfg)
			if faults != nil {
				b.Fatal(faults)
			}
			change.Commit()
			// What the settings were made of is garbage, which must not be
			// collected while this is measured.
			cfg, change = nil, nil
			runtime.GC()
			policytest.Added(b, with, without)
		})
	}
}
