package authorize_test

import (
	"testing"

	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

func Test(t *testing.T) {
	policytest.Run(t, policytest.Suite{
		Catalog: all.Catalog(), Kind: "authorize",
		Settings: "{ when: 'request.method != \"\"', deny: { groups: [blocked] } }", Allocs: 2,
	})
}
