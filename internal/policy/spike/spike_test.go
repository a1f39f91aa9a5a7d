package spike_test

import (
	"testing"

	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

func Test(t *testing.T) {
	policytest.Run(t, policytest.Suite{Catalog: all.Catalog(), Kind: "spike", Settings: "{ rate: 1000000/s, max_delay: 1s }"})
}
