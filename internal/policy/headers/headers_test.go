package headers_test

import (
	"testing"

	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

func Test(t *testing.T) {
	policytest.Run(t, policytest.Suite{
		Catalog: all.Catalog(), Kind: "headers",
		Settings: "{ request: { set: { X-A: b }, remove: [X-C] }, response: { add: { X-D: e } } }",
	})
}

func BenchmarkPlain(b *testing.B) {
	serve := policytest.Plain(b, all.Catalog(), `
routes:
  - match: /*
    upstream: http://up
    policies: [ headers: { request: { set: { X-A: b }, remove: Accept }, response: { set: { X-D: e } } } ]
`, nil)
	b.ReportAllocs()
	for b.Loop() {
		serve()
	}
}
