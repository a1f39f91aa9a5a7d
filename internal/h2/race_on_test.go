//go:build race

package h2

// raced says that pools drop at random, and so that allocations are no matter.
const raced = true
