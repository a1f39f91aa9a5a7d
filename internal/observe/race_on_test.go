//go:build race

package observe

// raced says that allocations are no matter.
const raced = true
