//go:build !race

package h2

const raced = false
