package cors_test

import (
	"testing"

	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

func Test(t *testing.T) {
	policytest.Run(t, policytest.Suite{
		Catalog: all.Catalog(), Kind: "cors",
		Settings: "{ origins: [https://shop.example.com], methods: [PUT], headers: [X-A] }",
	})
}
