package accesslog_test

import (
	"testing"

	"gatehouse.dev/gatehouse/internal/policy"
	"gatehouse.dev/gatehouse/internal/policy/accesslog"
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

// Without a log to write to the policy is a fault, and does not pass for one
// that writes.
func TestNoLog(t *testing.T) {
	p, err := new(accesslog.Config).Compile(&policy.Env{Service: func(string) any { return nil }})
	if p != nil || err == nil {
		t.Errorf("compiled to %v, %v", p, err)
	}
}
