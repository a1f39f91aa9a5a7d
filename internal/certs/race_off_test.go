//go:build !race

package certs

const raced = false
