//go:build race

package policytest

// raced says that pools drop at random, and so that allocations are no matter.
const raced = true
