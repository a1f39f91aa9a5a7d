package csrf_test

import (
	"testing"

	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

func Test(t *testing.T) {
	policytest.Run(t, policytest.Suite{
		Catalog: all.Catalog(), Kind: "csrf",
		Settings: "{ trusted_origins: [https://a.example.com] }",
	})
}
