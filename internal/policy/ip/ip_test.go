package ip_test

import (
	"testing"

	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

func Test(t *testing.T) {
	policytest.Run(t, policytest.Suite{
		Catalog: all.Catalog(), Kind: "ip",
		Settings: "{ deny: [203.0.113.0/24] }",
	})
}
