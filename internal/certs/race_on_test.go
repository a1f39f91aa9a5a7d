//go:build race

package certs

// raced says that the race detector allocates, and so that allocations are no
// matter.
const raced = true
