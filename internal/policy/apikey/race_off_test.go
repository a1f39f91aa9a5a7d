//go:build !race

package apikey_test

const raced = false
