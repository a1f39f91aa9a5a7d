//go:build !race

package jwt_test

const raced = false
