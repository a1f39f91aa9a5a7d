package grpcweb_test

import (
	"testing"

	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

func Test(t *testing.T) {
	policytest.Run(t, policytest.Suite{Catalog: all.Catalog(), Kind: "grpc_web"})
}

func BenchmarkPlain(b *testing.B) {
	serve := policytest.Plain(b, all.Catalog(), `
routes:
  - match: /*
    upstream: http://up
    policies: [ grpc_web: {} ]
`, nil)
	b.ReportAllocs()
	for b.Loop() {
		serve()
	}
}
