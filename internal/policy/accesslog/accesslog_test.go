package accesslog_test

import (
	"testing"

	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

func Test(t *testing.T) {
	policytest.Run(t, policytest.Suite{Catalog: all.Catalog(), Kind: "access_log"})
}

func BenchmarkPlain(b *testing.B) {
	serve := policytest.Plain(b, all.Catalog(), `
routes:
  - match: /*
    upstream: http://up
    policies: [ access_log: {} ]
`, nil)
	b.ReportAllocs()
	for b.Loop() {
		serve()
	}
}
