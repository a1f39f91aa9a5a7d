//go:build race

package upstream

// raced says that pools drop at random, and so that allocations are no matter.
const raced = true
