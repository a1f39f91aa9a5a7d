//go:build race

package jwt_test

// raced says that pools drop at random, and so that allocations are no matter.
const raced = true
