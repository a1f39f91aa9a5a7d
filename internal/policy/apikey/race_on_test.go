//go:build race

package apikey_test

// raced says that pools drop at random, and so that allocations are no matter.
const raced = true
