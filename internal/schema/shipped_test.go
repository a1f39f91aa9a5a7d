package schema

import (
	"gatehouse.dev/gatehouse/internal/policy"
	"gatehouse.dev/gatehouse/internal/policy/all"
)

// shipped returns the kinds of policies that the binary has.
func shipped() *policy.Catalog { return all.Catalog() }
