package jwks_test

import (
	"testing"

	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

func Test(t *testing.T) {
	policytest.Run(t, policytest.Suite{Catalog: all.Catalog(), Kind: "jwks", Settings: `{ keys: [ { key: { file: testdata/key.pem } } ] }`})
}
