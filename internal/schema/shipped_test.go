package schema

import "gatehouse.dev/gatehouse/internal/policy"

// shipped returns the kinds of policies that the binary has.
func shipped() *policy.Catalog { return policy.NewCatalog() }
