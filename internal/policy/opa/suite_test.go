package opa_test

import (
	"testing"

	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

func Test(t *testing.T) {
	policytest.Run(t, policytest.Suite{
		Catalog: all.Catalog(), Kind: "opa",
		Settings: "{ url: 'http://127.0.0.1:1/v1/data/x', fail_open: true }", Allocs: 500,
	})
}
